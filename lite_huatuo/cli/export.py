"""`lite-huatuo export`: from a run to a model anyone can load, and to the Hub."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from lite_huatuo.cli import terminal
from lite_huatuo.errors import ExportError

FIGURES = (
    "{to}: {dtype}, merged onto {onto}\n"
    "tensors: all {tensors} are base + adapter, rounded once ({tensors_merged} of them as peft merges them; "
    "{neighbours} elements rounded to the other neighbour)\n"
)
COMPARED = (
    "KL to base + unmerged adapter: {kl_to_unmerged:.2e} nats a token (tolerance {tolerance:.0e}), same first choice "
    "{same_first_choice:.1%}, same greedy text {same_greedy_texts} of {greedy_texts}\n"
    "KL to the model as trained:    {kl_to_trained:.2e}\n"
)


@click.command("export")
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Path(path_type=Path), help="The new folder to write.")
@click.option(
    "--onto",
    type=click.Choice(["base", "trained"]),
    help="base: the original 16-bit base; trained: the dequantised 4-bit base, exactly the model that was "
    "trained  [default: the recipe's]",
)
@click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), help="Weights  [default: the recipe's]")
@click.option("--stage", type=click.Choice(["sft", "ppo"]), help="Export this stage's actor  [default: the newest]")
@click.option("--adapter", "only_adapter", is_flag=True, help="Export the adapter alone, in plain peft form.")
@click.option("--low-disk", is_flag=True, help="Fetch the base's shards one by one and delete each when it is used.")
@click.option("--tensors-only", is_flag=True, help="Compare tensors only; load no model to compare its answers.")
@click.option("--gguf", type=click.Choice(["f16", "q8_0"]), help="Write a GGUF file and an Ollama Modelfile as well.")
@click.option(
    "--push",
    "repo",
    metavar="[USER/NAME]",
    is_flag=False,
    flag_value="",
    help="Publish on the Hugging Face Hub; without a name, as the recipe's export.repo.",
)
@click.option("--public/--private", default=False, help="Who sees a new repository  [default: private]")
@click.option("--update", is_flag=True, help="Replace the files of an existing repository, in one commit.")
@click.option("--push-below-base", is_flag=True, help="Publish a student that `eval` found below its base.")
@click.option("--branch", metavar="NAME", help="Commit to this branch of the repository, not to main.")
@click.option("--tag", metavar="NAME", help="Tag the commit.")
@click.option("--dry-run", is_flag=True, help="List files and sizes; write and push nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(folder: Path, to: Path, repo: str | None, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Merge a run's adapter into a model anyone can load, prove it equal, publish it.

    An interrupted export goes on from its finished shards; a push that failed is done again without a second export.

    \b
    lite-huatuo export runs/demo --to exported/demo
    lite-huatuo export runs/demo --to exported/exact --onto trained
    lite-huatuo export runs/demo --to exported/demo --gguf q8_0
    lite-huatuo export runs/demo --to exported/demo --push user/name --tag v1
    """
    import json

    from lite_huatuo import lock
    from lite_huatuo import recipe as recipes
    from lite_huatuo.cli.train import quiet_libraries
    from lite_huatuo.run_dir import RunDir

    run = RunDir.open(folder)
    recipe = recipes.check(run.recipe(), str(folder / "recipe.yaml"))
    if options["gguf"] and options["only_adapter"]:
        raise click.UsageError("--gguf: needs the merged model; leave out --adapter")
    if repo == "":
        repo = recipe.export.repo
        if repo is None:
            raise click.UsageError("--push: the recipe has no export.repo; give user/name")
    stage = options["stage"] or run.actor().parent.parent.name
    quiet_libraries(recipe.base.backend)
    from lite_huatuo.cli import export_steps  # brings torch
    from lite_huatuo.export import hub

    request = export_steps.Request(
        run=run,
        recipe=recipe,
        stage=stage,
        to=to,
        onto=options["onto"] or recipe.export.onto,
        dtype=options["dtype"] or recipe.export.dtype,
        only_adapter=options["only_adapter"],
        low_disk=options["low_disk"],
        logits=not options["tensors_only"],
        gguf=options["gguf"],
        repo=repo,
    )
    if dry_run:
        export_steps.show_plan(request, public=options["public"])
        return
    _tell_below_base(folder, stage, None if options["push_below_base"] else repo)
    target = {"private": not options["public"], "update": options["update"]}
    target |= {"revision": options["branch"], "tag": options["tag"]}
    if repo is not None:
        hub.check(to, repo, **target)
    with lock.locked(to, "export"):
        figures = export_steps.make(request, again=repo is not None)
        if repo is not None:
            figures["commit"] = export_steps.publish(request, figures, **target)
    terminal.say(json.dumps(figures) if as_json else text(to, figures))


def _tell_below_base(folder: Path, stage: str, repo: str | None) -> None:
    """Say where the student is below its base; refuse to push it to `repo` then."""
    from lite_huatuo.cli import gate

    below = gate.below_base(folder, stage)
    for line in below:
        terminal.say(f"warning: {line}", err=True)
    if repo is not None and below:
        raise ExportError(f"--push {repo}: the student is below its base; give --push-below-base if you mean it")


def text(to: Path, figures: dict[str, Any]) -> str:
    """Return what is printed for people."""
    if figures["onto"] == "adapter":
        said = f"{to}: the adapter, {figures['tensors']} tensors\n"
        said += "".join(f"vLLM will not serve it beside its base: {why}\n" for why in figures["vllm"])
    else:
        said = FIGURES.format(to=to, **figures)
        compared = figures["logits"] == "compared"
        said += COMPARED.format(**figures) if compared else f"answers: {figures['logits']}\n"
        said += f"talk to it: lite-huatuo chat {shlex.quote(str(to))}\n"
    if "commit" in figures:
        said += f"published: {figures['commit']}\n"
    return said.rstrip("\n")
