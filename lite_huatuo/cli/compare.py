"""`lite-huatuo compare`: is one student better than another, on the questions that both answered?"""

from __future__ import annotations

import json

import click

from lite_huatuo.cli import terminal


@click.command("compare")
@click.argument("first", metavar="FIRST")
@click.argument("others", metavar="OTHER...", nargs=-1, required=True)
@click.option("--benchmark", "names", multiple=True, metavar="NAME", help="Only this benchmark; repeatable.")
@click.option("--fail-below", is_flag=True, help="Exit with 1 where an OTHER is significantly below FIRST.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(
    first: str, others: tuple[str, ...], names: tuple[str, ...], fail_below: bool, seed: int, as_json: bool
) -> int:
    """Compare evaluated students with the first one, question by question.

    Each is what was given to `eval`: a run, its stage, a model, an address, or a folder of replies. What reinforcement
    learning brought is the first example.

    \b
    lite-huatuo compare runs/demo/sft runs/demo/ppo
    lite-huatuo compare runs/demo/base runs/demo --fail-below
    """
    from lite_huatuo.cli import scores
    from lite_huatuo.evaluation import compare, predictions

    reports, below = [], []
    for other in others:
        found = compare.compare(predictions.evaluated(first), predictions.evaluated(other), only=names, seed=seed)
        below += [f"{other} is below {first}: {reason}" for reason in compare.gate(found)]
        reports.append({"first": first, "second": other, **found.report()})
    if as_json:
        terminal.say(json.dumps({"comparisons": reports, "below": below}, ensure_ascii=False, indent=1))
    else:
        for report in reports:
            terminal.console(140).print(scores.compared(first, report["second"], report))
            terminal.say("\n".join(report["notes"]), nl=bool(report["notes"]))
    for line in below:
        terminal.say(f"warning: {line}", err=True)
    return 1 if below and fail_below else 0
