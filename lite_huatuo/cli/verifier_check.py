"""`lite-huatuo verifier check`: a verifier's numbers on the shipped suite and on judged files."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lite_huatuo.cli import terminal
from lite_huatuo.errors import BackendError

if TYPE_CHECKING:
    from lite_huatuo.verifier.base import Verifier

FILE = click.Path(path_type=Path)
KINDS = ("exact", "api", "classifier", "adapter", "ensemble")
SUITE = "suite"


@click.command()
@click.option("--recipe", metavar="NAME|FILE", help="Check the verifier of this recipe, against its accept_at.")
@click.option("--kind", type=click.Choice(KINDS), help="Check a verifier of this kind, set up by --set.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Override a value: of the recipe (verifier.threshold=0.5), or with --kind of its verifier section "
    "(threshold=0.5); repeatable.",
)  # fmt: skip
@click.option("--judged", "files", multiple=True, type=FILE, help="A judged .jsonl file; repeatable.")
@click.option("--no-suite", is_flag=True, help="Leave the shipped suite out.")
@click.option("--against", metavar="KIND|RECIPE", help="A second verifier, to measure agreement with.")
@click.option("--against-set", multiple=True, metavar="KEY=VALUE", help="The same as --set, for --against.")
@click.option("--accept-at", type=click.FloatRange(0, 1), help="Fail below this accuracy  [default: the recipe's]")
@click.option("--verdicts", type=FILE, help="Write every verdict beside its label to this .jsonl file.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def check(
    recipe: str | None, kind: str | None, overrides: tuple[str, ...], files: tuple[Path, ...], no_suite: bool,
    against: str | None, against_set: tuple[str, ...], accept_at: float | None, verdicts: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure a verifier on judged cases.

    The shipped suite holds replies that were written to fool a judge, and right ones in other words. A judged file has
    lines with question, final_response (or response), ground_truth (or reference) and label (true or false).

    \b
    lite-huatuo verifier check --recipe qwen7b
    lite-huatuo verifier check --kind exact --judged mine.jsonl --against api --against-set profile=gpt-6-luna
    """
    if (recipe is None) == (kind is None):
        raise click.UsageError("give either --recipe or --kind")
    if no_suite and not files:
        raise click.UsageError("--no-suite leaves nothing to judge; give --judged FILE")
    from lite_huatuo.verifier import acceptance, suite

    section, base = _section(recipe, kind, overrides)
    beside = None
    if against is not None:
        beside = _section(None, against, against_set) if against in KINDS else _section(against, None, against_set)
    cases: dict[str, Any] = {} if no_suite else {SUITE: suite.load()}
    cases.update({str(path): acceptance.read_judged(path) for path in files})
    with ExitStack() as stack:
        found = _judge(_make(section, base, stack), cases)
        second = None if beside is None else _judge(_make(*beside, stack), cases)
    report = _report(found, second)
    if verdicts is not None:
        from lite_huatuo import jsonl

        rows = [{"source": name, **row} for name, one in found[1].items() for row in acceptance.verdict_rows(one)]
        jsonl.write(verdicts, rows)
    terminal.say(json.dumps(report, ensure_ascii=False, indent=1) if as_json else text(report))
    bar = accept_at if accept_at is not None else section["accept_at"] if recipe is not None else None
    for name, numbers in report["sources"].items():
        reason = bar is not None and acceptance.refusal(
            numbers, accept_at=bar, least_judged_share=section["least_judged_share"]
        )
        if reason:
            raise BackendError(f"the verifier {report['verifier']} is not accepted on {name}: {reason}")


def _section(recipe: str | None, kind: str | None, overrides: tuple[str, ...]) -> tuple[dict[str, Any], Any]:
    """Return a verifier section as plain values, and the recipe it came from."""
    from lite_huatuo import recipe as recipes
    from lite_huatuo import schema

    if recipe is not None:
        whole = recipes.load(recipe, overrides)
        return whole.verifier.model_dump(), whole
    tree = schema.read(f"kind: {kind}", f"--kind {kind}", overrides)
    return schema.check(recipes.VerifierSection, tree, f"--kind {kind}").model_dump(), None


def _make(section: dict[str, Any], recipe: Any, stack: ExitStack) -> Verifier:
    """Make the verifier; one that judges on the student's base gets that base."""
    from lite_huatuo.verifier import choose

    choose.check(section)
    folder, shared = choose.adapter_folder(section), None
    if folder is not None:
        if recipe is None:
            raise BackendError("--kind adapter: judges on a student's base; give --recipe, which names it")
        from lite_huatuo.cli.train import quiet_libraries

        quiet_libraries(recipe.base.backend)
        from lite_huatuo.models import backends
        from lite_huatuo.models.shared_base import SharedBase

        loaded = backends.load(**recipe.base.model_dump())
        shared = SharedBase.from_adapters(loaded, {choose.ADAPTER: folder}, ())
    verifier = choose.make(section, shared=shared)
    close = getattr(verifier, "close", None)
    if close is not None:
        stack.callback(close)
    return verifier


def _judge(verifier: Verifier, cases: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the verifier's name and what it said of each source's cases."""
    from lite_huatuo.cli.display import Display
    from lite_huatuo.verifier import acceptance

    with Display() as display:
        display.start(verifier.name, sum(len(chosen) for chosen in cases.values()))
        judged = {name: acceptance.judge(verifier, chosen, advance=display.advance) for name, chosen in cases.items()}
    return verifier.name, judged


def _report(found: tuple[str, dict[str, Any]], second: tuple[str, dict[str, Any]] | None) -> dict[str, Any]:
    """Return the whole report as plain values."""
    from lite_huatuo.verifier import acceptance

    name, judged = found
    report: dict[str, Any] = {
        "verifier": name, "sources": {source: acceptance.report(one) for source, one in judged.items()}
    }  # fmt: skip
    if second is not None:
        report["against"] = {
            "verifier": second[0],
            "sources": {source: acceptance.report(one) for source, one in second[1].items()},
            "agreement": {source: acceptance.agreement(judged[source], second[1][source]) for source in judged},
        }
    return report


def text(report: dict[str, Any]) -> str:
    """Return the report as a page for people."""
    lines: list[str] = []
    for source, numbers in report["sources"].items():
        lines += ["", f"{report['verifier']} on {source}", *_page(numbers)]
        if "against" in report:
            agreed = report["against"]["agreement"][source]
            lines += [
                f"  against {report['against']['verifier']}: agreement {_share(agreed['agreement'])}, "
                f"kappa {_number(agreed['kappa'])}; only the first says right {agreed['only_first_right']}, "
                f"only the second {agreed['only_second_right']}"
            ]
    return "\n".join(lines).lstrip("\n")


def _page(numbers: dict[str, Any]) -> list[str]:
    """Return the lines of one source."""
    rows = [(name.replace("_", " "), _share(numbers[name])) for name in
            ("accuracy", "precision", "recall", "false_positive_rate")]  # fmt: skip
    rows.append(("F1", _number(numbers["f1"])))
    if numbers["calibration_error"] is not None:
        rows.append(("calibration error", _number(numbers["calibration_error"])))
    rows.append(("failures", f"{numbers['failed']} of {numbers['n']}"))
    dollars = numbers["dollars_per_1000"]
    rows.append(("seconds per 1,000", f"{numbers['seconds_per_1000']:.1f}"))
    rows.append(("dollars per 1,000", "all verdicts came from the store" if dollars is None else f"{dollars:.4f}"))
    for title, group, measure in (
        ("accuracy by language", "by_language", "accuracy"), ("accuracy by length, characters", "by_length", "accuracy")
    ):  # fmt: skip
        rows += [(f"{title}: {name}", _share(part[measure])) for name, part in numbers[group].items()]
    rows += [(f"false positives: {name}", _share(part)) for name, part in numbers["false_positives_by_attack"].items()]
    rows += [(f"recall: {name}", _share(part)) for name, part in numbers["recall_by_form"].items()]
    rows += [(f"failed {count} times", reason) for reason, count in numbers["failures"].items()]
    width = max(len(name) for name, _ in rows)
    return [f"  {name:<{width}}  {value}" for name, value in rows]


def _share(share: dict[str, Any]) -> str:
    if share["value"] is None:
        return "none"
    return f"{share['value']:.3f} [{share['low']:.3f}, {share['high']:.3f}] ({share['hits']}/{share['n']})"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
