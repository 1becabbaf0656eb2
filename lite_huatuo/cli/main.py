"""The command group. Commands are imported when they are called, so that `--help` needs no torch and no time."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any

import click

from lite_huatuo import __version__, nearest, stopping
from lite_huatuo.cli import terminal, troubles
from lite_huatuo.errors import LiteHuatuoError

# name -> (module under lite_huatuo.cli, summary in the group's help), in the order of the pipeline
COMMANDS = {
    "doctor": ("doctor", "Tell what this machine can train and what is missing."),
    "recipes": ("recipes", "List, show, check and copy recipes."),
    "plan": ("plan", "Predict memory by phase, time, disk and money."),
    "data": ("data", "Turn exam questions into problems and verified chains of thought."),
    "verifier": ("verifier", "Check judges of final responses; make data for one and train it."),
    "rehearse": ("rehearse", "Run a whole recipe on a tiny twin of its base, in minutes."),
    "train": ("train", "Train a student: SFT, then PPO."),
    "eval": ("eval", "Score a student on exam benchmarks."),
    "compare": ("compare", "Tell whether one student is better than another."),
    "report": ("report", "Write one HTML page about a run: scores, curves, replies, costs."),
    "chat": ("chat", "Talk to a trained student."),
    "export": ("export", "Merge a run's adapter into a model anyone can load."),
    "bench": ("bench", "Measure what this machine does, beside what plan predicts."),
}
# The commands that keep what they have done, and go on there when they are given again.
SAME_AGAIN = (
    ("data", "filter"),
    ("data", "reformat"),
    ("data", "search"),
    ("verifier", "build"),
    ("verifier", "train"),
    ("eval",),
    ("export",),
    ("bench",),
)


class LazyGroup(click.Group):
    """A group whose commands live in modules of their own, imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in pipeline order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None for a name that is unknown."""
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"lite_huatuo.cli.{COMMANDS[cmd_name][0]}").command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Return (name, command, the other words); an unknown name is told with the nearest known one."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}{nearest.hint(args[0], COMMANDS)}.")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summaries without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="lite-huatuo")
def cli() -> None:
    """Train a medical language model to think before it answers (the HuatuoGPT-o1 method) with LoRA on a 4-bit base.

    \b
    Begin with:  lite-huatuo doctor
                 lite-huatuo train --recipe demo
                 lite-huatuo chat runs/demo
    """


def main() -> None:
    """Run the command line: known errors are told in a line each, exit 1; wrong usage 2; SIGINT (Ctrl-C) 130,
    SIGTERM 143."""
    terminal.show_all()
    with stopping.on_signals() as stop:
        code = _run(stop)
    sys.exit(code)


def _run(stop: stopping.Stop) -> int:
    """Run the command and return the exit code."""
    try:
        try:
            with troubles.told("run the same command again", memory="take a smaller model, batch or length"):
                code = cli(standalone_mode=False)
        finally:
            stopping.ignore()  # what is done is done: from here on a signal could only hide how it ended
    except LiteHuatuoError as error:
        for line in str(error).split("\n"):
            terminal.say(f"error: {line}", err=True)
        return 1
    except click.ClickException as error:
        vars(error)["message"] = terminal.harmless(error.message)
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        terminal.say(_how_to_go_on(sys.argv[1:]), err=True)
        number = getattr(error.__cause__ or error, "number", None)  # click raises Abort from what interrupted it
        return 128 + int(number or stop.signal or signal.SIGINT)
    return code if isinstance(code, int) else 0


def _how_to_go_on(words: list[str]) -> str:
    """Return what an interrupted command says. `train` has said more, and others have nothing to go on with."""
    if not any(words[: len(name)] == list(name) for name in SAME_AGAIN):
        return "interrupted"
    forgets = "--overwrite" in words and words[0] != "verifier"  # its replies are in the store, which is not forgotten
    return f"interrupted; what is done is kept: run the same command again{', without --overwrite' * forgets}"
