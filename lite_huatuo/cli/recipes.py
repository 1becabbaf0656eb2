"""`lite-huatuo recipes`: list, show, check and copy recipes, and what accelerate needs to know of one."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from lite_huatuo import jsonl
from lite_huatuo import recipe as recipes
from lite_huatuo.cli import terminal
from lite_huatuo.errors import RecipeError

OVERRIDES = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value; repeatable.")


@click.group("recipes")
def command() -> None:
    """List, show, check and copy recipes.

    \b
    lite-huatuo recipes list
    lite-huatuo recipes copy qwen7b mine.yaml
    lite-huatuo recipes check mine.yaml
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: recipe to purpose.")
def list_(as_json: bool) -> None:
    """List the shipped recipes.

    \b
    lite-huatuo recipes list
    """
    purposes = {name: purpose(recipes.text(name)[1]) for name in recipes.names()}
    if as_json:
        terminal.say(json.dumps(purposes, indent=2, ensure_ascii=False))
        return
    width = max(len(name) for name in purposes)
    for name, what in purposes.items():
        terminal.say(f"{name:<{width}}  {what}")


@command.command()
@click.argument("name", metavar="NAME|FILE")
@click.option("--resolved", is_flag=True, help="Fill in every default; comments are lost.")
@OVERRIDES
def show(name: str, resolved: bool, overrides: tuple[str, ...]) -> None:
    """Print a recipe.

    As written, comments and all; --resolved and --set print it checked, with every default filled in.

    \b
    lite-huatuo recipes show qwen7b
    lite-huatuo recipes show demo --resolved --set ppo.kl_coef=0.05
    """
    if resolved or overrides:
        import yaml

        tree = recipes.load(name, overrides).model_dump()
        terminal.say(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), nl=False)
    else:
        text = recipes.text(name)[1]
        terminal.say(text, nl=not text.endswith("\n"))


@command.command()
@click.argument("name", metavar="NAME|FILE")
@OVERRIDES
def check(name: str, overrides: tuple[str, ...]) -> None:
    """Check a recipe: print "ok", or every problem.

    \b
    lite-huatuo recipes check mine.yaml
    lite-huatuo recipes check qwen7b --set data.sft=my_sft.jsonl
    """
    recipes.load(name, overrides)
    terminal.say("ok")


@command.command()
@click.argument("name", metavar="NAME")
@click.argument("to", metavar="TO", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace an existing file.")
def copy(name: str, to: Path, force: bool) -> None:
    """Copy a recipe to a file or folder of yours, to change it.

    \b
    lite-huatuo recipes copy qwen7b mine.yaml
    """
    text = recipes.text(name)[1]
    path = to
    try:
        path = to / f"{Path(name).stem}.yaml" if to.is_dir() else to
        if not path.parent.is_dir():
            raise RecipeError(f"{path}: there is no folder {path.parent}; make it first (mkdir -p {path.parent})")
        if path.exists() and not force:
            raise RecipeError(f"{path}: exists already; give another name, or --force to replace it")
        jsonl.write_text(path, text)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be written ({error.strerror}); give a place you may write to") from None
    quoted = shlex.quote(str(path))
    terminal.say(
        f"wrote {path}; change it (and its `name`: runs go to runs/<name>), then:\n"
        f"  lite-huatuo recipes check {quoted}\n  lite-huatuo train --recipe {quoted}"
    )


@command.command()
@click.argument("name", metavar="NAME|FILE")
@click.option("--machines", type=click.IntRange(1), default=1, show_default=True, help="Machines that train together.")
@click.option("--processes", type=click.IntRange(1), help="Processes in all  [default: launch.processes × machines]")
@click.option("--address", help="Name or IP of the first machine, where there are several.")
@OVERRIDES
def accelerate(
    name: str, machines: int, processes: int | None, address: str | None, overrides: tuple[str, ...]
) -> None:
    """Print the configuration of `accelerate launch` for a recipe.

    On one machine `train` starts its processes itself; this is for several, or for a launcher of your own.

    \b
    lite-huatuo recipes accelerate qwen72b --machines 2 --address node01 > accelerate.yaml
    accelerate launch --config_file accelerate.yaml --machine_rank 0 --module lite_huatuo train --recipe qwen72b
    """
    import yaml

    from lite_huatuo.planning import launch

    recipe = recipes.load(name, overrides)
    count = processes or recipe.launch.processes * machines
    launch.check(recipe, count)
    config = launch.accelerate_config(count, machines=machines, address=address)
    terminal.say(yaml.safe_dump(config, sort_keys=False), nl=False)


def purpose(text: str) -> str:
    """Return what a recipe's first comment line says it is for: `# name: purpose.`"""
    first = text.split("\n", 1)[0]
    return first.lstrip("# ").partition(": ")[2].rstrip(".") if first.startswith("#") else ""
