"""`lite-huatuo verifier`: whether a judge can be trusted, and judged pairs to train one."""

from __future__ import annotations

import click

from lite_huatuo.cli import verifier_build, verifier_check, verifier_train


@click.group("verifier")
def command() -> None:
    """Check judges of final responses; make data for one and train it.

    \b
    lite-huatuo verifier check --recipe qwen7b
    lite-huatuo verifier check --kind exact --judged mine.jsonl
    """


for each in (verifier_check.check, verifier_build.build, verifier_train.train):
    command.add_command(each)
