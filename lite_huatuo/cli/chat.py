"""`lite-huatuo chat`: ask a run's newest student, or an exported model; thinking dim, final response plain."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from lite_huatuo.response_format import RESPONSE_HEADING, THINKING_HEADING


@click.command("chat")
@click.argument("target", metavar="RUN|MODEL")
@click.option("--once", metavar="QUESTION", help="Answer one question and exit.")
@click.option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--max-tokens", type=click.IntRange(1), help="Reply limit  [default: the recipe's; 1300 for a model]")
@click.option("--stage", type=click.Choice(["sft", "ppo"]), help="Which of a run's actors  [default: the newest]")
def command(target: str, once: str | None, temperature: float, max_tokens: int | None, stage: str | None) -> None:
    """Talk to a trained student: a run folder, an exported model's folder, or a Hub id.

    Each question stands alone: the student is trained on single questions.

    \b
    lite-huatuo chat runs/demo
    lite-huatuo chat exported/demo --once "Which vitamin is missing in scurvy?"
    """
    from lite_huatuo.cli.train import quiet_libraries

    quiet_libraries()
    model, tokenizer, limit = _load(target, stage)
    if once is not None:
        _answer(model, tokenizer, once, temperature, max_tokens or limit)
        return
    click.echo("Ask a question; an empty line or Ctrl-D ends.", err=True)
    while True:
        try:
            question = click.prompt("", prompt_suffix="> ", default="", show_default=False).strip()
        except click.Abort:
            return
        if not question:
            return
        _answer(model, tokenizer, question, temperature, max_tokens or limit)


def _load(target: str, stage: str | None) -> tuple[Any, Any, int]:
    """Return (network with the student active, tokenizer, reply limit)."""
    from lite_huatuo import recipe as recipes
    from lite_huatuo.models import backends
    from lite_huatuo.models.shared_base import SharedBase
    from lite_huatuo.run_dir import RunDir

    if not (Path(target) / "recipe.yaml").is_file():
        loaded = backends.load(target, quantization="none", backend="plain")
        return loaded.model, loaded.tokenizer, 1300
    run = RunDir.open(Path(target))
    recipe = recipes.check(run.recipe(), f"{target}/recipe.yaml")
    adapter = run.final(stage) if stage else run.actor()
    shared = SharedBase.from_adapters(backends.load(**recipe.base.model_dump()), {"actor": adapter}, ())
    shared.activate("actor")
    return shared.causal, shared.tokenizer, recipe.ppo.rollout.max_reply_length


def _answer(model: Any, tokenizer: Any, question: str, temperature: float, limit: int) -> None:
    """Generate and print one reply as it comes."""
    import torch
    from transformers import GenerationConfig, TextStreamer

    class Printer(TextStreamer):
        """Sends finalised text to the reply printer."""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            reply.feed(text)

    reply = ReplyPrinter(color=sys.stdout.isatty())
    sampling: dict[str, Any] = (
        {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    )
    config = GenerationConfig(
        max_new_tokens=limit, eos_token_id=tokenizer.stop_ids, pad_token_id=tokenizer.pad_id, **sampling
    )
    ids = torch.tensor([tokenizer.query(question)], device=model.device)
    with torch.no_grad():
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            streamer=Printer(tokenizer.hf, skip_prompt=True, skip_special_tokens=True),
        )
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
