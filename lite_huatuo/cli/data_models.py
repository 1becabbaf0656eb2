"""The `data` commands that ask models: filter, reformat, search; one way to run them, price them and stop them."""

from __future__ import annotations

import asyncio
import functools
import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lite_huatuo.cli import terminal
from lite_huatuo.errors import APIError

if TYPE_CHECKING:
    from lite_huatuo.data.asking import Ask
    from lite_huatuo.data.profile import Profile
    from lite_huatuo.data.runner import Work

FILE = click.Path(path_type=Path)
SAMPLE = 50  # records that --dry-run rehearses
RECORDS_PER_CALL = 2  # records at one time for each call at one time: half of them are between two calls
IN_BATCHES = 10_000  # records at one time where requests go as batch jobs: a wave has so many
SHAPING = {  # what of a profile decides what is asked
    "model", "token_field", "json_schema", "temperature", "default_temperature", "seed", "reasoning_effort",
    "reasoning_tokens", "extra",
}  # fmt: skip
TEACHER, SOLVER, VERIFIER = "teacher", "solver", "verifier"


@dataclass(frozen=True)
class Settings:
    """The options that all commands here share."""

    source: str
    to: Path
    store: Path
    budget: float | None
    batch: bool
    concurrency: int | None
    max_failures: float
    shard: str | None
    limit: int | None
    dry_run: bool
    overwrite: bool


@dataclass(frozen=True)
class Job:
    """One command's work. `models` are the profiles to ask by role; `make` turns their `Ask`s into the work."""

    name: str
    settings: Settings
    models: list[tuple[str, Profile]]
    make: Callable[
        [Sequence[Ask], Sequence[Ask]], Work[Any]
    ]  # (asks, asks that are free in a rehearsal) by place in `models`
    records: Callable[[], Iterable[Any]]
    fixed: dict[str, Any]  # what makes it the same job, beside input and models
    sides: tuple[str, ...] = ()


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the shared arguments and options; the command gets them as `settings`."""

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        shared = {name: values.pop(name) for name in Settings.__annotations__}
        command(settings=Settings(**shared), **values)

    for decorate in reversed(
        (
            click.argument("source", metavar="SOURCE"),
            click.option("--to", required=True, type=FILE, help="The .jsonl to write; side files stand beside it."),
            click.option(
                "--store", type=FILE, default=Path("requests.sqlite"), show_default=True,
                help="Where every reply is kept.",
            ),
            click.option("--budget", type=click.FloatRange(0), help="Dollars, a hard stop for all the store has paid."),
            click.option("--batch", is_flag=True, help="Send waves of requests as batch jobs: cheaper, and slower."),
            click.option(
                "--concurrency", type=click.IntRange(1),
                help="Calls at one time; with --batch, records  [default: the profile's, 10,000]",
            ),
            click.option(
                "--max-failures", type=click.FloatRange(0, 1), default=0.05, show_default=True,
                help="Stop when more than this share of records fails.",
            ),
            click.option("--shard", metavar="I/N", help="Do part I of N; `data merge` puts parts together."),
            click.option("--limit", type=click.IntRange(1), help="Take only the first records."),
            click.option("--dry-run", is_flag=True, help="Price the job from a sample; ask nothing, write nothing."),
            click.option("--overwrite", is_flag=True, help="Begin again; replies in the store still cost nothing."),
        )
    ):  # fmt: skip
        wrapped = decorate(wrapped)
    return wrapped


TEACHER_OPTION = click.option(
    "--teacher", metavar="PROFILE", required=True, help="A shipped model profile or a YAML file."
)
SET_OPTION = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value of the teacher's profile."
)


@click.command("filter")
@options
@click.option("--teacher", metavar="PROFILE", help="Judges depth, uniqueness, reformability  [default: not judged]")
@SET_OPTION
@click.option("--solver", "solvers", metavar="PROFILE", multiple=True, help="A small model; repeat for several.")
@click.option(
    "--min-length", type=click.IntRange(0), help="A shorter question is dropped, in characters  [default: 101]"
)
def filter_(
    settings: Settings,
    teacher: str | None,
    overrides: tuple[str, ...],
    solvers: tuple[str, ...],
    min_length: int | None,
) -> None:
    """Drop easy and ambiguous exam questions.

    Rules first; then small models, whose questions all get right are dropped; then the teacher. Every dropped row is
    kept in X.dropped.jsonl with its reason.

    \b
    lite-huatuo data filter exam.jsonl --to kept.jsonl --teacher gpt-6-luna --solver local
    """
    from lite_huatuo.data import pipeline, profile, rules

    models = [(SOLVER, profile.load(name)) for name in solvers]
    if teacher:
        models.append((TEACHER, profile.load(teacher, overrides)))
    least = rules.MIN_LENGTH if min_length is None else min_length

    def make(asks: Sequence[Ask], _: Sequence[Ask]) -> Any:
        return pipeline.filter_work(asks[: len(solvers)], asks[-1] if teacher else None)

    def records() -> Iterable[Any]:
        return pipeline.candidates(pipeline.exams(settings.source), min_length=least)

    _do(Job("filter", settings, models, make, records, {"min_length": least}, ("dropped",)))


@click.command()
@options
@TEACHER_OPTION
@SET_OPTION
def reformat(settings: Settings, teacher: str, overrides: tuple[str, ...]) -> None:
    """Turn exam questions into verifiable problems.

    A second request checks that the ground truth answers the open question and still means the original answer.

    \b
    lite-huatuo data reformat kept.jsonl --to problems.jsonl --teacher gpt-6-luna
    """
    from lite_huatuo.data import pipeline, profile

    models = [(TEACHER, profile.load(teacher, overrides))]

    def make(asks: Sequence[Ask], _: Sequence[Ask]) -> Any:
        return pipeline.reformat_work(asks[0])

    _do(Job("reformat", settings, models, make, lambda: pipeline.exams(settings.source), {}, ("dropped",)))


@click.command()
@options
@TEACHER_OPTION
@SET_OPTION
@click.option("--verifier", default="teacher", show_default=True, metavar="teacher|exact|PROFILE", help="Who judges.")
@click.option("--rounds", type=click.IntRange(0), default=3, show_default=True, help="Strategies after a first chain.")
@click.option("--attempts", type=click.IntRange(1), default=3, show_default=True, help="First chains.")
@click.option("--label-guided", is_flag=True, help="Give unsolved problems one round that is told the ground truth.")
@click.option("--seed", type=int, default=42, show_default=True, help="Of the strategies drawn.")
@click.option("--assume-right", type=click.FloatRange(0, 1), default=0.5, show_default=True,
              help="--dry-run: share of conclusions that are right.")  # fmt: skip
def search(
    settings: Settings, teacher: str, overrides: tuple[str, ...], verifier: str, rounds: int, attempts: int,
    label_guided: bool, seed: int, assume_right: float,
) -> None:  # fmt: skip
    """Search verified chains of thought.

    Writes every trajectory to X.jsonl, and for each solved problem a complex CoT with a response to X.sft.jsonl.

    \b
    lite-huatuo data search problems.jsonl --to trajectories.jsonl --teacher gpt-6-luna --dry-run
    lite-huatuo data search problems.jsonl --to trajectories.jsonl --teacher gpt-6-luna --budget 50
    """
    from lite_huatuo.data import pipeline, profile
    from lite_huatuo.data import search as searching

    models = [(TEACHER, profile.load(teacher, overrides))]
    if verifier not in ("teacher", "exact"):
        models.append((VERIFIER, profile.load(verifier)))

    def make(asks: Sequence[Ask], free: Sequence[Ask]) -> Any:
        if verifier != "exact":
            verify = searching.teacher_verify(asks[-1])
        else:  # the made-up conclusions of a rehearsal have no words to compare
            verify = searching.teacher_verify(free[-1]) if free else searching.exact_verify()
        return pipeline.search_work(
            asks[0], verify, model=models[0][1].model, rounds=rounds, attempts=attempts, seed=seed,
            label_guided=label_guided,
        )  # fmt: skip

    fixed = {"verifier": verifier, "rounds": rounds, "attempts": attempts, "label_guided": label_guided, "seed": seed}
    job = Job("search", settings, models, make, lambda: pipeline.open_problems(settings.source), fixed, (pipeline.SFT,))
    _do(job, assume_right)


def _do(job: Job, assume_right: float = 0.5) -> None:
    """Price the job, or run it and print its counts."""
    import datetime

    for _, model in job.models:
        warning = model.retirement(datetime.date.today())
        if warning:
            terminal.say(f"warning: {warning}", err=True)
    if job.settings.dry_run:
        from lite_huatuo.cli import data_price

        terminal.say(data_price.table(job, SAMPLE, assume_right))
        return
    from lite_huatuo.data import connection, pipeline, side_files

    for _, model in job.models:
        connection.secret(model)  # before anything is written
    paths = pipeline.outputs(job.settings.to, *job.sides)
    settings = job.settings
    side_files.free(paths.values(), sources=[settings.source], overwrite=settings.overwrite, own=_put_in_place(paths))
    counts = asyncio.run(_run(job, paths))
    for name, path in paths.items():
        terminal.say(f"{counts[name]:>8,}  {path}")
    for reason, count in counts.items():
        if ": " in reason:
            terminal.say(f"{count:>8,}    {reason}")


def _put_in_place(paths: dict[str, Path]) -> list[Path]:
    """Return the outputs that this job had put in place when it was killed, as its state tells."""
    import json

    from lite_huatuo.data import runner

    try:
        lengths = json.loads(runner.state_path(paths).read_text(encoding="utf-8"))["offsets"]
        found = {name: path for name, path in paths.items() if path.is_file() and not runner.part(path).exists()}
        return [path for name, path in found.items() if path.stat().st_size == lengths[name]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


async def _run(job: Job, paths: dict[str, Path]) -> Any:
    """Open store and models, and run the job to its end, its stop or its error."""
    from lite_huatuo.data import pipeline, runner
    from lite_huatuo.data.client import Teacher
    from lite_huatuo.data.store import Store

    settings, stop = job.settings, runner.Stop()
    models = [model.model_copy(update=_paced(settings)) for _, model in job.models]
    calls = max((model.concurrency for model in models), default=16)
    at_one_time = IN_BATCHES if settings.batch and not settings.concurrency else calls * RECORDS_PER_CALL
    shaping = [[role, model.model_dump(include=SHAPING)] for role, model in job.models]
    same = {**job.fixed, "models": shaping, "shard": settings.shard, "limit": settings.limit}
    fingerprint = pipeline.fingerprint(job.name, settings.source, **same)
    total = sum(1 for _ in chosen(job))
    gc.freeze()  # what is loaded stays: searching it for garbage at every thousandth object takes a tenth of the time
    gc.set_threshold(50_000, 20, 20)
    try:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(runner.stopped_by_signals(stop))
            store = stack.enter_context(Store(settings.store))
            teachers: list[Teacher] = []
            asks: dict[str, Ask] = {}  # by profile: roles that share one share its limits too
            profiles = [model.model_dump_json() for model in models]
            for key, model in dict(zip(profiles, models, strict=True)).items():
                teacher = Teacher(model, store, budget=settings.budget, batch=settings.batch)
                asks[key] = (await stack.enter_async_context(teacher)).ask
                teachers.append(teacher)
            if settings.overwrite:
                runner.forget(paths)
            advance = stack.enter_context(_shown(job.name, total))
            work = job.make([asks[key] for key in profiles], [])
            counts = await runner.run(
                chosen(job), work, paths, fingerprint=fingerprint, concurrency=at_one_time,
                max_failures=settings.max_failures, stop=stop, advance=advance,
            )  # fmt: skip
            for teacher in teachers:
                counts.update({f"replies that are no answer: {name}": n for name, n in teacher.usage.unusable.items()})
            return counts
    except (APIError, asyncio.CancelledError) as error:
        if stop.signal is None:
            raise
        terminal.say(str(error) or str(stop.asked), err=True)
        if settings.overwrite:
            terminal.say("leave out --overwrite then: it would begin again", err=True)
        raise SystemExit(128 + stop.signal) from None


def _paced(settings: Settings) -> dict[str, int]:
    """Return what the options change of how fast a model is asked."""
    return {"concurrency": settings.concurrency} if settings.concurrency else {}


@contextmanager
def _shown(name: str, total: int) -> Iterator[Callable[[int, Any], None]]:
    """Show progress, at most once a second: there may be 40,000 records."""
    from lite_huatuo.cli.display import Display

    shown, told = 0, 0.0
    with Display() as display:
        display.start(f"data {name}", total)

        def advance(done: int, counts: Any) -> None:
            nonlocal shown, told
            if done == total or time.monotonic() - told > 1.0:
                display.advance(done - shown, written=counts[""], failed=counts["failed"])
                shown, told = done, time.monotonic()

        yield advance


def chosen(job: Job) -> Iterable[Any]:
    """Return the job's records: its shard of them, and no more than asked for."""
    from lite_huatuo.data import shards

    return shards.shard(islice(job.records(), job.settings.limit), job.settings.shard)
