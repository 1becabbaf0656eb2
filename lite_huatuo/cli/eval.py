"""`lite-huatuo eval`: what a student scores on exam benchmarks, every reply kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lite_huatuo.cli import terminal
from lite_huatuo.errors import APIError

if TYPE_CHECKING:
    from lite_huatuo.evaluation.targets import Writer

FILE = click.Path(path_type=Path)


@click.command("eval")
@click.argument("target", metavar="RUN|MODEL|ADDRESS", required=False)
@click.option(
    "--benchmark", "words", multiple=True, metavar="NAME[=FILE]",
    help="A benchmark, its questions from the Hub or from a file; repeatable  [default: the recipe's eval.benchmarks]",
)  # fmt: skip
@click.option("--benchmarks", "own", type=FILE, help="A YAML file with benchmarks of your own.")
@click.option("--list", "list_them", is_flag=True, help="List the benchmarks and exit; it takes no TARGET.")
@click.option("--limit", type=click.IntRange(1), help="Ask so many questions of each; a larger limit adds to them.")
@click.option("--seeds", type=click.IntRange(1), help="Replies to each question  [default: the benchmark's runs]")
@click.option("--shuffle/--no-shuffle", default=None, help="Options in another order in each run after the first.")
@click.option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--max-tokens", type=click.IntRange(1), help="Reply limit  [default: the recipe's; 1300 for a model]")
@click.option("--batch-size", type=click.IntRange(1), help="Replies written at once  [default: the recipe's; 16]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the replies' sampling.")
@click.option("--revision", help="A Hub model's commit, tag or branch.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="An endpoint's profile value; repeatable.")
@click.option("--store", type=FILE, default=Path("requests.sqlite"), help="An endpoint's request store.")
@click.option("--budget", type=click.FloatRange(0), help="Dollars that the store may have spent in all.")
@click.option("--to", "folder", type=FILE, help="Where to keep replies  [default: RUN/eval/STAGE, evaluations/TARGET]")
@click.option("--overwrite", is_flag=True, help="Forget the replies that are kept, and ask anew.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads  [default: all cores but one]")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(target: str | None, words: tuple[str, ...], as_json: bool, list_them: bool, **options: Any) -> None:
    """Score a student on exam benchmarks.

    RUN is a run folder, or one of its stages (runs/demo/base, runs/demo/sft, runs/demo/ppo). MODEL is an exported
    model's folder or a Hub id. ADDRESS is an OpenAI-compatible endpoint, http://host:port/v1, or profile:NAME for one
    with a key. Replies are kept as they come; the same command goes on after an interruption.

    \b
    lite-huatuo eval runs/demo --benchmark medqa --limit 100
    lite-huatuo eval runs/demo/base --benchmark medqa=medqa_test.jsonl
    lite-huatuo eval http://127.0.0.1:8000/v1 --set model=org/name --benchmark medqa --seeds 3 --temperature 0.5
    """
    from lite_huatuo.evaluation import benchmarks

    known = {**benchmarks.shipped(), **(benchmarks.own(options["own"]) if options["own"] else {})}
    if list_them:
        width = max(map(len, known))
        terminal.say("\n".join(f"{name:<{width}}  {each.title}" for name, each in known.items()))
        return
    if target is None:
        raise click.UsageError("give a RUN, MODEL or ADDRESS")
    words = words or _of_recipe(target)
    if not words:
        raise click.UsageError(f"give --benchmark NAME; there are {', '.join(known)}")
    chosen = dict(benchmarks.choose(word, known) for word in words)
    plans = {name: _plan(each, options) for name, each in chosen.items()}
    questions = {name: benchmarks.load(each) for name, each in chosen.items()}
    report, folder = _evaluate(target, chosen, plans, questions, options)
    if as_json:
        terminal.say(json.dumps({"folder": str(folder), "benchmarks": report}, ensure_ascii=False, indent=1))
        return
    _show(target, folder, report)


def _of_recipe(target: str) -> tuple[str, ...]:
    """Return the benchmarks of a run's recipe."""
    from lite_huatuo.evaluation import predictions
    from lite_huatuo.run_dir import RunDir

    found = predictions.run_of(target)
    return tuple(RunDir.open(found[0]).recipe().get("eval", {}).get("benchmarks") or ()) if found else ()


def _plan(benchmark: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return {runs, shuffle} of a benchmark; several replies that cannot differ are refused."""
    shuffle = benchmark.shuffle if options["shuffle"] is None else options["shuffle"]
    runs = options["seeds"] or (benchmark.runs if shuffle or options["temperature"] else 1)
    if runs > 1 and not shuffle and not options["temperature"]:
        raise click.UsageError("--seeds: greedy replies would all be the same; give --temperature or --shuffle as well")
    return {"runs": runs, "shuffle": shuffle}


def _evaluate(
    target: str, chosen: dict[str, Any], plans: dict[str, Any], questions: dict[str, Any], options: dict[str, Any]
) -> tuple[dict[str, Any], Path]:
    """Open the target and evaluate it on every benchmark."""
    from lite_huatuo import lock
    from lite_huatuo.cli.display import Display
    from lite_huatuo.evaluation import run, targets

    with ExitStack() as stack, _without_overwriting_again(options["overwrite"]):
        writer, folder = _open(target, options, stack)
        stack.enter_context(lock.locked(folder, "eval"))
        sampling = targets.Sampling(
            options["temperature"], options["top_p"], options["max_tokens"] or writer.max_tokens, options["seed"]
        )
        display = stack.enter_context(Display())
        report = {
            name: run.evaluate(
                writer, name, each, questions[name], folder,
                sampling=sampling, progress=display, limit=options["limit"], overwrite=options["overwrite"],
                **plans[name],
            )
            for name, each in chosen.items()
        }  # fmt: skip
    if isinstance(writer, targets.EndpointWriter) and writer.replayed:
        terminal.say(f"{writer.replayed:,} replies came from the request store {options['store']}: this evaluation had "
                     "asked for them before; --overwrite asks anew", err=True)  # fmt: skip
    return report, folder


@contextmanager
def _without_overwriting_again(overwrite: bool) -> Iterator[None]:
    """Tell, where an endpoint ended it, that what came is kept and would be forgotten by the same command."""
    try:
        yield
    except APIError as error:
        raise APIError(f"{error}{'; leave out --overwrite then' * overwrite}") from None


def _open(target: str, options: dict[str, Any], stack: ExitStack) -> tuple[Writer, Path]:
    """Return what writes the replies, and where they are kept."""
    from lite_huatuo.evaluation import predictions, targets

    elsewhere = options["folder"] or predictions.ELSEWHERE / predictions.slug(target)
    profile = targets.profile_of(target, options["overrides"])
    if profile is not None:
        return targets.EndpointWriter(profile, options["store"], stack, budget=options["budget"]), elsewhere
    if options["overrides"]:
        raise click.UsageError("--set is for endpoints")
    from lite_huatuo.cli.train import backend_of, quiet_libraries, use_threads

    quiet_libraries(backend_of(target))
    use_threads(options["threads"])
    found = predictions.run_of(target)
    if found is None:
        return targets.open_model(
            target, revision=options["revision"], batch_size=options["batch_size"] or 16
        ), elsewhere
    writer, stage = targets.open_run(*found)
    writer.batch_size = options["batch_size"] or writer.batch_size
    return writer, options["folder"] or targets.stage_folder(found[0], stage)


def _show(target: str, folder: Path, report: dict[str, Any]) -> None:
    """Print the scores, the paper's table where a column of it is there, and what to do next."""
    from lite_huatuo.cli import scores

    console = terminal.console(140)
    console.print(scores.table(target, report))
    notes = scores.notes(report)
    if any(summary["column"] for summary in report.values()):
        console.print(scores.paper_table(scores.beside(target, folder)))
    terminal.say("\n".join([*notes, f"every reply with its reading: {folder}"]))
