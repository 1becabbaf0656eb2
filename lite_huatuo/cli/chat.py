"""`lite-huatuo chat`: ask a student, a model or an endpoint; thinking dim, final response plain; or in a browser."""

from __future__ import annotations

import importlib.util
import sys
import threading
from typing import TYPE_CHECKING

import click

from lite_huatuo.cli import terminal
from lite_huatuo.errors import BackendError
from lite_huatuo.response_format import RESPONSE_HEADING, THINKING_HEADING

if TYPE_CHECKING:
    from lite_huatuo.evaluation.students import Students

PORT = 7860


@click.command("chat")
@click.argument("target", metavar="RUN|MODEL|ADDRESS")
@click.option("--once", metavar="QUESTION", help="Answer one question and exit.")
@click.option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--max-tokens", type=click.IntRange(1), help="Reply limit  [default: the recipe's; 1300 for a model]")
@click.option("--stage", type=click.Choice(["base", "sft", "ppo"]), help="Whom to ask of a run  [default: the newest]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="An endpoint's profile value; repeatable.")
@click.option("--web", is_flag=True, help="In a browser: base, SFT and PPO side by side. Needs gradio.")
@click.option("--port", type=click.IntRange(0, 65535), help=f"Of --web; 0 takes a free one  [default: {PORT}]")
@click.option("--host", help="Of --web: the address to listen on  [default: 127.0.0.1, this machine only]")
def command(
    target: str,
    once: str | None,
    temperature: float,
    max_tokens: int | None,
    stage: str | None,
    overrides: tuple[str, ...],
    web: bool,
    port: int | None,
    host: str | None,
) -> None:
    """Talk to a trained student.

    RUN is a run folder, or one of its stages (runs/demo/base, runs/demo/sft, runs/demo/ppo). MODEL is an exported
    model's folder or a Hub id. ADDRESS is an OpenAI-compatible endpoint, http://host:port/v1, or profile:NAME. Each
    question stands alone: the student is trained on single questions.

    \b
    lite-huatuo chat runs/demo
    lite-huatuo chat exported/demo --once "Which vitamin is missing in scurvy?"
    lite-huatuo chat runs/demo --web
    """
    if web and once is not None:
        raise click.UsageError("--web and --once exclude each other")
    if not web and (port is not None or host is not None):
        raise click.UsageError("--port and --host are for --web")
    if web and importlib.util.find_spec("gradio") is None:
        raise BackendError("chat --web: gradio is not installed; run `pip install 'lite-huatuo[web]'`")
    from lite_huatuo.cli.train import backend_of, quiet_libraries

    quiet_libraries(backend_of(target))
    from lite_huatuo.evaluation import students

    with students.enter(target, stage=stage, every=web, overrides=overrides) as found:
        most = max_tokens or found.most_tokens
        if web:
            from lite_huatuo.cli import chat_web

            chat_web.serve(
                found, temperature=temperature, max_tokens=most, host=host, port=PORT if port is None else port
            )
        elif once is not None:
            _answer(found, once, temperature, most)
        else:
            _talk(found, temperature, most)


def _talk(students: Students, temperature: float, most: int) -> None:
    """Answer questions until there is none."""
    terminal.say("Ask a question; an empty line or Ctrl-D ends.", err=True)
    while True:
        try:
            question = click.prompt("", prompt_suffix="> ", default="", show_default=False).strip()
        except click.Abort as ended:
            if isinstance(ended.__context__, EOFError):
                return
            raise  # a signal
        if not question:
            return
        _answer(students, question, temperature, most)


def _answer(students: Students, question: str, temperature: float, most: int) -> None:
    """Print one reply as it comes."""
    screen = terminal.console()
    dims = screen.is_terminal and not screen.is_dumb_terminal and not screen.no_color
    reply, printed = ReplyPrinter(color=dims), 0
    never = threading.Event()
    for said in students.answer(students.names[0], question, temperature=temperature, max_tokens=most, stop=never):
        reply.feed(said.text[printed:])
        printed = len(said.text)
    reply.close()


class ReplyPrinter:
    """Writes a reply to stdout as it comes: dim from the thinking heading on, plain from the final response on.

    Control characters are left out: a reply must not steer the reader's terminal.
    """

    def __init__(self, *, color: bool) -> None:
        self._color, self._dim, self._line, self._held = color, False, "", ""

    def feed(self, text: str) -> None:
        """Take the next piece of text."""
        for character in text:
            if character == "\n":
                self._end_line()
            elif character.isprintable() or character == "\t":
                self._held += character
                if not any(
                    heading.startswith(self._line + self._held) for heading in (THINKING_HEADING, RESPONSE_HEADING)
                ):
                    self._write(self._held)
                    self._line, self._held = self._line + self._held, ""
        sys.stdout.flush()

    def close(self) -> None:
        """End the last line."""
        if self._line or self._held:
            self._end_line()
        sys.stdout.flush()

    def _end_line(self) -> None:
        line = (self._line + self._held).rstrip()
        if line in (THINKING_HEADING, RESPONSE_HEADING):
            self._dim = line == THINKING_HEADING
        self._write(self._held + "\n")
        self._line, self._held = "", ""

    def _write(self, text: str) -> None:
        sys.stdout.write(click.style(text, dim=True) if self._dim and self._color and text.strip() else text)
