"""`lite-huatuo data`: from exam questions to verifiable problems and verified chains of thought, in pipeline order."""

from __future__ import annotations

import click

from lite_huatuo.cli import data_files, data_models


class InOrder(click.Group):
    """A group whose help lists commands in the order they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names as added."""
        return list(self.commands)


@click.group("data", cls=InOrder)
def command() -> None:
    """Turn exam questions into problems and verified chains of thought.

    Commands that ask models keep every reply in a request store before it is used: what was interrupted goes on when
    the same command is given again, and nothing is paid for twice. --dry-run prices the work first.

    \b
    lite-huatuo data import exams.jsonl --to exam.jsonl
    lite-huatuo data filter exam.jsonl --to kept.jsonl --teacher gpt-6-luna --budget 20
    lite-huatuo data reformat kept.jsonl --to problems.jsonl --teacher gpt-6-luna
    lite-huatuo data search problems.jsonl --to trajectories.jsonl --teacher gpt-6-luna
    """


for each in (
    data_files.import_,
    data_models.filter_,
    data_models.reformat,
    data_files.decontaminate,
    data_models.search,
    data_files.merge,
    data_files.mix,
    data_files.stats,
    data_files.ledger,
):
    command.add_command(each)
