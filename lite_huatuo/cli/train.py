"""`lite-huatuo train`: both stages or one, into a run folder."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lite_huatuo.cli import terminal, troubles
from lite_huatuo.errors import LiteHuatuoError

if TYPE_CHECKING:
    from lite_huatuo.recipe import Recipe
    from lite_huatuo.run_dir import RunDir


@click.command("train")
@click.option("--recipe", "name", required=True, metavar="NAME|FILE", help="A shipped recipe or a YAML file.")
@click.option("--stage", type=click.Choice(["sft", "ppo"]), help="Run one stage only; both by default.")
@click.option("--run", "folder", type=click.Path(path_type=Path), help="The run folder  [default: runs/<recipe name>]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe value; repeatable.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--overwrite", is_flag=True, help="Delete an existing run and start again.")
@click.option(
    "--dry-run", is_flag=True, help="Print the resolved recipe, devices, steps and token counts; train nothing."
)
@click.option("--accept-verifier", is_flag=True, help="Take the verifier though it is below accept_at, or was another.")
@click.option("--evaluate", is_flag=True, help="Then ask base and student the recipe's eval.benchmarks.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads  [default: all cores but one]")
def command(
    name: str,
    stage: str | None,
    folder: Path | None,
    overrides: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    accept_verifier: bool,
    evaluate: bool,
    threads: int | None,
) -> None:
    """Train a student: SFT, then PPO.

    \b
    lite-huatuo train --recipe demo
    lite-huatuo train --recipe qwen7b --set data.sft=my_sft.jsonl --run runs/mine
    lite-huatuo train --recipe demo --resume
    """
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    if stage == "ppo" and overwrite:
        raise click.UsageError("--stage ppo begins with the SFT that --overwrite would delete; leave one of them out")
    from lite_huatuo import recipe as recipes

    recipe = recipes.load(name, overrides)
    path = folder or Path("runs") / recipe.name
    if dry_run:
        from lite_huatuo.cli.dry_run import show

        show(recipe, path)
        return
    if evaluate and not recipe.eval.benchmarks:
        raise click.UsageError(
            "--evaluate: the recipe's eval.benchmarks is empty; `lite-huatuo eval --list` names some"
        )
    from lite_huatuo.planning import launch

    if launch.needed(recipe, os.environ):
        launch.check(recipe, recipe.launch.processes)
        code = launch.start(recipe.launch.processes, sys.argv[1:])
        if code > 128:
            say_how_to_go_on()
        click.get_current_context().exit(code)
    quiet_libraries(recipe.base.backend)
    use_threads(threads)
    warn_of_a_cpu(recipe)
    if not resume:
        advise_a_rehearsal(recipe, name, overrides)
    run = _run(recipe, path, stage, resume=resume, overwrite=overwrite, accept_verifier=accept_verifier)
    if run.writes:
        show_results(run)
    if evaluate and run.writes:
        from lite_huatuo.cli import gate

        gate.evaluate(path, (stage,) if stage else ("sft", "ppo"))


def _run(
    recipe: Recipe, path: Path, stage: str | None, *, resume: bool, overwrite: bool, accept_verifier: bool
) -> RunDir:
    """Check everything that can be checked first, then open the run folder and train; return the folder.

    Of several processes the main one checks, opens and shows.
    """
    from lite_huatuo import lock, processes, stopping
    from lite_huatuo.cli.display import Display
    from lite_huatuo.planning import launch
    from lite_huatuo.run_dir import RunDir
    from lite_huatuo.training import preflight
    from lite_huatuo.training.progress import Quiet

    together = processes.join()

    def open_run() -> None:
        launch.check(recipe, together.count)
        preflight.check(recipe, stage)
        if resume or stage == "ppo":
            RunDir.resume(path, recipe.model_dump())
        else:
            if overwrite:
                lock.refuse_if_held_below(path)
            RunDir.create(path, recipe.model_dump(), overwrite=overwrite)

    run, opened = RunDir(path, writes=together.main), False
    try:
        with (
            stopping.on_signals() as stop,
            lock.locked(path, "train") if together.main else nullcontext(),
            together.held_together(),
            troubles.told(command_to_go_on(), memory=f"`lite-huatuo plan --recipe {recipe.name}` tells what to lower"),
            Display() if together.main else nullcontext(Quiet()) as display,
        ):
            together.once(open_run)
            opened = True
            if stage != "ppo":
                from lite_huatuo.training import sft

                sft.train(recipe, run, display, processes=together, stop=stop)
            if stage != "sft":
                from lite_huatuo.training import ppo

                ppo.train(recipe, run, display, accept_verifier=accept_verifier, processes=together, stop=stop)
    except LiteHuatuoError as error:
        if opened:
            with suppress(OSError):  # the disk may be what failed
                run.event("failed", error=str(error))
        raise
    except KeyboardInterrupt as signalled:
        if opened:
            with suppress(OSError):  # a full disk must not hide why it ended
                run.event("interrupted")
        if together.count == 1:  # else the process that started them says so
            say_how_to_go_on()
        raise click.exceptions.Exit(128 + getattr(signalled, "number", signal.SIGINT)) from None  # all is said
    return run


def command_to_go_on() -> str:
    """Return the command that goes on with an interrupted run: what was typed, with --resume."""
    typed = [word for word in sys.argv[1:] if word not in ("--resume", "--overwrite")]
    return shlex.join(["lite-huatuo", *typed, "--resume"])


def say_how_to_go_on() -> None:
    """Print that command."""
    terminal.say(f"interrupted; go on with: {command_to_go_on()}", err=True)


def warn_of_a_cpu(recipe: Recipe) -> None:
    """Say so where a machine without a GPU would train for weeks."""
    import torch

    from lite_huatuo.planning import needs

    if torch.cuda.is_available():
        return
    with suppress(LiteHuatuoError):  # a base of unknown shape, or one that cannot be loaded, which is told next
        if not needs.need(recipe, cards=1).on_cpu:
            terminal.say(f"warning: no GPU; on a CPU {recipe.name} takes weeks (see `lite-huatuo doctor`)", err=True)


def advise_a_rehearsal(recipe: Recipe, name: str, overrides: tuple[str, ...]) -> None:
    """Say how to rehearse a long run of which no rehearsal on this machine is known."""
    import torch

    from lite_huatuo.planning import needs
    from lite_huatuo.rehearsal import known

    cuda = torch.cuda.is_available()
    with suppress(LiteHuatuoError):  # a base of unknown shape, or one that cannot be loaded: train says so itself
        if known.survived(recipe, "cuda" if cuda else "cpu") or (not cuda and needs.need(recipe, cards=1).on_cpu):
            return
        words = ["lite-huatuo", "rehearse", "--recipe", name]
        words += [word for override in overrides for word in ("--set", override)]
        terminal.say(f"hint: not rehearsed on this machine; find what could stop it: {shlex.join(words)}", err=True)


def show_results(run: RunDir) -> None:
    """Print what came of a run: the table, curves, a sample reply, and where everything is."""
    from lite_huatuo.cli import results
    from lite_huatuo.training import heldout

    terminal.console(120).print(results.table(heldout.read_report(run.path / "eval")))
    terminal.say("\n".join(["", *results.curves(run), "", results.sample(run), ""]))
    terminal.say(f"run folder: {run.path} (every reply with its verdict: {run.path / 'eval'})")
    terminal.say(f"talk to it: lite-huatuo chat {shlex.quote(str(run.path))}")


def use_threads(threads: int | None) -> None:
    """Set how many threads torch computes with; None: all cores but one, shared with the other processes here.

    One core stays free: OpenMP's barriers make all threads wait for one that shares its core with other work.
    """
    import torch

    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(threads or max(1, ((os.cpu_count() or 2) - 1) // here))


def backend_of(target: str) -> str:
    """Return the `base.backend` of a run or one of its stages; plain for a target that is no run."""
    from lite_huatuo import recipe as recipes
    from lite_huatuo.evaluation import predictions
    from lite_huatuo.run_dir import RunDir

    found = predictions.run_of(target)
    if found is None:
        return "plain"
    return recipes.check(RunDir.open(found[0]).recipe(), f"{found[0]}/recipe.yaml").base.backend


def quiet_libraries(backend: str = "plain") -> None:
    """Keep the libraries' bars and advice out of ours; their errors still come through.

    `backend` is that of the base which the command will load, if it loads one: unsloth must come before transformers.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # trl tells its makers of each trainer
    import logging
    import warnings

    from lite_huatuo.models import backends

    backends.prepare(backend)
    import datasets
    import transformers

    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in ("bitsandbytes", "trl", "peft", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
