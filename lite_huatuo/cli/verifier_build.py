"""`lite-huatuo verifier build`: judged pairs, to train a verifier and to check it."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lite_huatuo.cli import terminal
from lite_huatuo.errors import RecordError

if TYPE_CHECKING:
    from lite_huatuo.verifier.base import Verifier

FILE = click.Path(path_type=Path)
EXACT = "exact"


@click.command()
@click.argument("source", metavar="PROBLEMS")
@click.option("--to", required=True, type=FILE, help="The folder for train.jsonl, test.jsonl and manifest.json.")
@click.option("--replies", "files", multiple=True, type=FILE, help="Lines of id (a problem's) and reply; repeatable.")
@click.option("--sample", "sampled", metavar="PROFILE", help="Ask this model the questions as well.")
@click.option("--run", "runs", multiple=True, type=FILE, help="Ask this run's student as well; repeatable.")
@click.option(
    "--temperature", "temperatures", type=click.FloatRange(0, 2), multiple=True, default=(0.3, 0.7, 1.0),
    show_default=True, help="Of --sample and --run; repeatable.",
)  # fmt: skip
@click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="At each temperature.")
@click.option("--max-tokens", type=click.IntRange(1), default=600, show_default=True, help="Of a reply to --sample.")
@click.option("--judge", required=True, metavar="PROFILE|exact", help="Who judges the replies.")
@click.option("--exams", metavar="EXAMS", help="The problems' exam questions: attacks use their wrong options.")
@click.option(
    "--attacks", type=click.IntRange(0), default=4, show_default=True, help="Wrong replies made up, a problem."
)
@click.option("--test-share", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Of the questions.")
@click.option("--seed", type=int, default=42, show_default=True, help="Of everything that is drawn.")
@click.option("--limit", type=click.IntRange(1), help="Take only the first problems.")
@click.option(
    "--store", type=FILE, default=Path("requests.sqlite"), show_default=True, help="Where every reply is kept."
)
@click.option("--budget", type=click.FloatRange(0), help="Dollars, a hard stop for all the store has paid.")
@click.option(
    "--max-failures", type=click.FloatRange(0, 1), default=0.2, show_default=True,
    help="Stop where more than this share of the replies gets no verdict.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace what is in the folder; replies in the store cost nothing.")
def build(source: str, to: Path, judge: str, max_failures: float, overwrite: bool, **options: Any) -> None:
    """Make judged pairs to train a verifier.

    Replies of a run (its eval/*.jsonl) or of a model are judged; to each problem wrong replies are added that are made
    to fool a judge (the question or the answer echoed, many answers listed, the right one denied, ...), and the right
    answer in other words. As many right ones as wrong ones stay, and each question is in one split only.

    \b
    lite-huatuo verifier build problems.jsonl --to pairs --replies runs/mine/eval/heldout.sft.jsonl --judge gpt-6-luna
    lite-huatuo verifier build problems.jsonl --to pairs --sample local --judge gpt-6-luna --budget 5
    lite-huatuo verifier build problems.jsonl --to pairs --run runs/mine --samples 4 --judge gpt-6-luna
    """
    if not (options["files"] or options["sampled"] or options["runs"]):
        raise click.UsageError("nothing to judge; give --replies FILE, --sample PROFILE or --run RUN")
    from lite_huatuo.data import side_files, sources
    from lite_huatuo.verifier import build as building

    if to.is_file():
        raise RecordError(f"{to}: is a file; give a folder")
    given = [source, *options["files"], *filter(None, [options["exams"]])]
    outputs = [to / name for name in building.FILES]
    side_files.free(outputs, sources=given, overwrite=overwrite, own=side_files.placed(to, building.FILES))
    problems = sources.load_problems(source)[: options["limit"]]
    skipped: Counter[str] = Counter()
    with ExitStack() as stack:
        verifier = _judge(judge, options, stack)
        replies = building.read_replies(options["files"], {problem.id: problem for problem in problems}, skipped)
        if options["sampled"]:
            replies += _sample(problems, options, skipped)
        for folder in options["runs"]:
            replies += _ask(folder, problems, options, skipped)
        if not replies:
            told = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
            raise RecordError(f"no reply can be judged ({told or 'the files are empty'})")
        built = _build(problems, replies, verifier, options)
    told = built.manifest["replies"]
    if told["not judged"] > max_failures * len(replies):
        reason = next(iter(built.manifest["failures"]))
        raise RecordError(f"{told['not judged']} of {len(replies)} replies got no verdict, most often: {reason}")
    told_too = {"problems_from": source, "sampled": options["sampled"], "runs": [str(path) for path in options["runs"]]}
    manifest = building.write(to, built, skipped={k: n for k, n in skipped.items() if n}, **told_too)
    for name, counts in manifest["splits"].items():
        terminal.say(f"{counts['pairs']:>8,}  {to / name}.jsonl ({counts['right']:,} right)")
    terminal.say(json.dumps({"replies": told, "skipped": manifest["skipped"]}, ensure_ascii=False))


def _judge(judge: str, options: dict[str, Any], stack: ExitStack) -> Verifier:
    """Return who judges."""
    from lite_huatuo.verifier import choose

    if judge == EXACT:
        return choose.make(EXACT)
    from lite_huatuo.data import profile
    from lite_huatuo.verifier.api import ApiVerifier

    return stack.enter_context(ApiVerifier(profile.load(judge), options["store"], budget=options["budget"]))


def _sample(problems: Any, options: dict[str, Any], skipped: Counter[str]) -> Any:
    """Return what the sampled model replies."""
    from lite_huatuo.cli.display import Display
    from lite_huatuo.data import profile
    from lite_huatuo.verifier.sampling import sample

    chosen = profile.load(options["sampled"])
    with Display() as display:
        display.start("verifier build: replies", len(problems) * len(options["temperatures"]) * options["samples"])
        return sample(
            chosen, options["store"], problems, temperatures=options["temperatures"], samples=options["samples"],
            max_tokens=options["max_tokens"], skipped=skipped, budget=options["budget"], advance=display.advance,
        )  # fmt: skip


def _ask(folder: Path, problems: Any, options: dict[str, Any], skipped: Counter[str]) -> Any:
    """Return what a run's student replies."""
    from lite_huatuo.cli.display import Display
    from lite_huatuo.cli.train import backend_of, quiet_libraries
    from lite_huatuo.run_dir import RunDir

    run = RunDir.open(folder)
    quiet_libraries(backend_of(str(folder)))
    from lite_huatuo.training import run_replies

    with Display() as display:
        return run_replies.sample(
            run, problems, temperatures=options["temperatures"], samples=options["samples"], seed=options["seed"],
            skipped=skipped, progress=display,
        )  # fmt: skip


def _build(problems: Any, replies: Any, verifier: Verifier, options: dict[str, Any]) -> Any:
    """Judge and put together."""
    from lite_huatuo.cli.display import Display
    from lite_huatuo.data import sources
    from lite_huatuo.verifier import build as building

    exams = sources.load_exams(options["exams"]) if options["exams"] else []
    with Display() as display:
        display.start("verifier build: verdicts", len(replies))
        return building.build(
            problems, replies, verifier, options={exam.id: exam.options for exam in exams},
            attacks_per_problem=options["attacks"], test_share=options["test_share"],
            seed=options["seed"], advance=display.advance,
        )  # fmt: skip
