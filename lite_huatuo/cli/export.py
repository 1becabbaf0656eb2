"""`lite-huatuo export`: from a run to a merged 16-bit model."""

from __future__ import annotations

from pathlib import Path

import click


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
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(folder: Path, to: Path, onto: str | None, dtype: str | None, stage: str | None, as_json: bool) -> None:
    """Merge a run's adapter into a model anyone can load.

    \b
    lite-huatuo export runs/demo --to exported/demo
    lite-huatuo export runs/demo --to exported/exact --onto trained
    """
    import json

    from lite_huatuo import recipe as recipes
    from lite_huatuo.cli.train import quiet_libraries
    from lite_huatuo.run_dir import RunDir

    run = RunDir.open(folder)
    recipe = recipes.check(run.recipe(), str(folder / "recipe.yaml"))
    adapter = run.final(stage) if stage else run.actor()
    quiet_libraries()
    from lite_huatuo.export import merge

    figures = merge.export(
        adapter,
        to,
        base=recipe.base.model_dump(),
        onto=onto or recipe.export.onto,
        dtype=dtype or recipe.export.dtype,
        max_shard_size=recipe.export.max_shard_size,
    )
    if as_json:
        click.echo(json.dumps(figures))
        return
    click.echo(
        f"{to}: {figures['dtype']}, merged onto {figures['onto']}\n"
        f"KL to base + unmerged adapter: {figures['kl_to_unmerged']:.2e} nats a token (tolerance "
        f"{figures['tolerance']:.0e}), same first choice {figures['same_first_choice']:.1%}\n"
        f"KL to the model as trained:    {figures['kl_to_trained']:.2e}\n"
        f"talk to it: lite-huatuo chat {to}"
    )
