"""The `data` commands that ask no model: import, decontaminate, merge, mix, stats, ledger."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from lite_huatuo import nearest
from lite_huatuo.cli import terminal

FILE = click.Path(path_type=Path)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
TO = click.option("--to", required=True, type=FILE, help="The .jsonl file to write; side files stand beside it.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Write over what is there.")


@click.command("import")
@click.argument("source", metavar="SOURCE")
@TO
@click.option("--only", multiple=True, metavar="FIELD=A,B", help="Keep rows whose field is one of these (!=: none).")
@click.option("--name", default="", help="Name of the source, where the rows tell none.")
@click.option("--language", default="", help="Language, where the rows tell none  [default: told by the text]")
@click.option("--cop-base", type=click.IntRange(0, 1), help="MedMCQA: `cop` counts from here  [default: found out]")
@click.option("--limit", type=click.IntRange(1), help="Stop after so many questions.")
@OVERWRITE
@JSON
def import_(source: str, to: Path, overwrite: bool, as_json: bool, **settings: Any) -> None:
    """Read exam questions of any published form.

    SOURCE is a .jsonl, .json or .csv file, or a data set on the Hub (org/name[:config][#split]): MedQA, MedMCQA,
    CMExam, CMB, HEAD-QA, MMLU-Pro, or rows of question, options, answer_idx. Rows whose answer is not one of their
    options are refused and listed in X.refused.jsonl.

    \b
    lite-huatuo data import openlifescienceai/medmcqa --to exam.jsonl
    lite-huatuo data import TIGER-Lab/MMLU-Pro#test --only category=health,biology --to exam.jsonl
    """
    from lite_huatuo.data import exams, side_files

    _free(to, side_files.REFUSED, sources=[source], overwrite=overwrite)
    counts = exams.import_exams(source, to, **settings)
    _print(counts, as_json, [f"{count:>8,}  {name.replace('_', ' ')}" for name, count in counts.items()])
    if counts["refused"] and not counts["kept"]:
        from lite_huatuo import jsonl

        _, first = next(jsonl.iter_rows(side_files.side_path(to, side_files.REFUSED)))
        terminal.say(f"warning: every row was refused; the first, {first['where']}: {first['reason']}", err=True)


@click.command()
@click.argument("source", metavar="FILE")
@TO
@click.option(
    "--against", multiple=True, required=True, metavar="SOURCE", help="An evaluation set; repeat for several."
)
@click.option("--exams", metavar="SOURCE", help="The exam questions that the problems were made from, by id.")
@click.option(
    "--spare-stock-phrases/--paper-rule",
    default=True,
    help="Let runs of 64 characters pass that many questions share, or count every run  [default: let them pass]",
)
@OVERWRITE
@JSON
def decontaminate(
    source: str,
    to: Path,
    against: tuple[str, ...],
    exams: str | None,
    spare_stock_phrases: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Drop records that overlap with evaluation sets.

    64 equal characters in a row that are no stock phrase (--paper-rule: whatever they are) and shared n-grams of words
    (Chinese: of characters). Every hit is kept in X.dropped.jsonl with what it hit.

    \b
    lite-huatuo data decontaminate problems.jsonl --against medqa_test.jsonl --to clean.jsonl
    """
    from lite_huatuo.data import decontaminate as screening
    from lite_huatuo.data import side_files, sources

    _free(to, side_files.DROPPED, sources=[source, *against, *([exams] if exams else [])], overwrite=overwrite)
    screen = screening.Screen() if spare_stock_phrases else screening.Screen(everyday=None)
    for evaluation in against:
        for where, row in sources.rows(evaluation):
            screen.add(row, where)
    for _, row in sources.rows(exams) if exams else ():
        screen.add_form(row)
    report = side_files.sift(screening.STEP, to, screen.sift(sources.rows(source)))
    lines = [f"{count:>8,}  dropped: {rule}" for rule, count in report["reasons"].items()]
    _print(report, as_json, [f"{report['rows']:>8,}  rows", *lines, f"{report['kept']:>8,}  {to}"])


@click.command()
@click.argument("parts", nargs=-1, required=True, metavar="PART...", type=FILE)
@click.option("--like", required=True, metavar="SOURCE", help="The input of the job, whose order the result has.")
@TO
@OVERWRITE
def merge(parts: tuple[Path, ...], like: str, to: Path, overwrite: bool) -> None:
    """Put the parts of a sharded job together.

    The result, side files included, is what one run would have written.

    \b
    lite-huatuo data merge part1.jsonl part2.jsonl --like problems.jsonl --to trajectories.jsonl
    """
    from lite_huatuo.data import pipeline, shards, side_files

    sides = shards.sides(parts)
    read = [side_files.side_path(part, side) for part in parts for side in (side_files.OUTPUT, *sides)]
    _free(to, *sides, sources=[like, *read], overwrite=overwrite)
    for side, count in shards.merge(parts, lambda: pipeline.ids(like), to).items():
        terminal.say(f"{count:>8,}  {side_files.side_path(to, side)}")


@click.command()
@click.argument("folder", type=FILE)
@click.option("--search", multiple=True, metavar="SOURCE", help="Problems to search, or examples that were searched.")
@click.option("--rl", multiple=True, metavar="SOURCE", help="Problems for PPO; may be the same as those to search.")
@click.option("--closed", multiple=True, metavar="SOURCE", help="Exam questions kept as multiple choice.")
@click.option("--general", multiple=True, metavar="SOURCE", help="Verifiable problems or examples outside medicine.")
@click.option("--count", "counts", multiple=True, metavar="KIND=N", help="How many to draw  [default: the paper's]")
@click.option("--seed", type=int, default=42, show_default=True, help="Of the draw.")
@OVERWRITE
@JSON
def mix(
    folder: Path, counts: tuple[str, ...], seed: int, overwrite: bool, as_json: bool, **inputs: tuple[str, ...]
) -> None:
    """Draw training data: search, RL, closed, general.

    Writes sft.jsonl, search.jsonl and rl.jsonl (those that get rows) and manifest.json with counts and content hashes.
    No problem is in two of them.

    \b
    lite-huatuo data mix data/ --search problems.jsonl --rl problems.jsonl --count search=20000 --count rl=20000
    """
    from lite_huatuo.data import mix as mixing
    from lite_huatuo.data import side_files

    chosen = {**mixing.PAPER, **dict(_count(text, mixing.PAPER) for text in counts)}
    given = {kind: list(sources) for kind, sources in inputs.items() if sources}
    if not given:
        raise click.UsageError("give at least one source, such as --rl problems.jsonl")
    side_files.free(
        [folder / name for name in mixing.FILES],
        sources=[source for kind in inputs.values() for source in kind],
        overwrite=overwrite,
        own=side_files.placed(folder, mixing.FILES),
    )
    manifest = mixing.mix(folder, given, counts=chosen, seed=seed)
    outputs = manifest["outputs"].items()
    lines = [f"{entry['rows']:>8,}  {folder / name}  ({_short(entry['kinds'])})" for name, entry in outputs]
    _print(manifest, as_json, [*lines, f"          {folder / mixing.MANIFEST}"])


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=FILE)
@JSON
def stats(files: tuple[Path, ...], as_json: bool) -> None:
    """Show what each step kept, dropped and why.

    \b
    lite-huatuo data stats exam.jsonl kept.jsonl problems.jsonl trajectories.jsonl
    """
    from lite_huatuo.data import stats as counting

    found = counting.funnel(files)
    _print(found, as_json, [line for stage in found for line in _funnel(stage)])


@click.command()
@click.option("--store", type=FILE, default=Path("requests.sqlite"), show_default=True, help="The request store.")
@JSON
def ledger(store: Path, as_json: bool) -> None:
    """Show calls, tokens and dollars by step and model.

    \b
    lite-huatuo data ledger
    """
    import dataclasses

    from lite_huatuo.data import store as stores

    rows = [dataclasses.asdict(row) for row in stores.ledger(store)]
    names = list(rows[0]) if rows else []
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"] if rows else [f"{store}: no call yet"]
    lines += [f"| {' | '.join(_short(value) for value in row.values())} |" for row in rows]
    if rows:
        lines.append(f"\nin all: {sum(row['calls'] for row in rows):,} calls, ${sum(r['dollars'] for r in rows):,.4f}")
    _print(rows, as_json, lines)


def _free(to: Path, *sides: str, sources: Iterable[str | Path], overwrite: bool) -> None:
    """Refuse to write over an input with the output or a side file, and over anything else unless that is asked for."""
    from lite_huatuo.data import side_files

    outputs = [side_files.side_path(to, side) for side in (side_files.OUTPUT, *sides)]
    side_files.free(outputs, sources=sources, overwrite=overwrite)


def _funnel(stage: dict[str, Any]) -> list[str]:
    """Return the lines of one file's funnel."""
    lines = [f"{stage['file']}: {stage['rows']:,} of {stage['in']:,} rows"]
    for side in ("dropped", "failed"):
        for step, kinds in stage[side].items():
            lines += [f"{count:>8,}  {side} at {step}: {kind}" for kind, count in kinds.items()]
    lines += [f"{count:>8,}  refused: {kind}" for kind, count in stage["refused"].items()]
    told = {"file", "rows", "in", "dropped", "failed", "refused"}
    return lines + [f"          {name}: {_short(value)}" for name, value in stage.items() if name not in told and value]


def _print(value: Any, as_json: bool, lines: list[str]) -> None:
    terminal.say(json.dumps(value, indent=2, ensure_ascii=False) if as_json else "\n".join(lines))


def _short(value: Any) -> str:
    """Return a value in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(inner)}" for key, inner in value.items())
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, list):
        return f"{len(value)} entries"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _count(text: str, known: Iterable[str]) -> tuple[str, int]:
    kind, _, number = text.partition("=")
    if not number.isdigit():
        raise click.UsageError(f"--count {text}: write it KIND=N, such as rl=20000")
    if kind not in known:
        raise click.UsageError(f"--count {text}: no such kind{nearest.hint(kind, known)}; there are {', '.join(known)}")
    return kind, int(number)
