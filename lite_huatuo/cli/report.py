"""`lite-huatuo report`: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path, dir_okay=False), help="The page  [default: RUN/report.html]")
@click.option(
    "--samples",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Most replies of PPO on the page, and as many to held-out problems.",
)
@click.option("--open", "show", is_flag=True, help="Open it in the browser.")
def command(folder: Path, to: Path | None, samples: int, show: bool) -> None:
    """Write one HTML page about a run: scores, curves, sample replies, costs, recipe.

    The page holds all it needs and loads nothing. A run that is going on, or that crashed, has one too.

    \b
    lite-huatuo report runs/demo
    lite-huatuo report runs/demo --to demo.html --samples 1000
    """
    from lite_huatuo.cli.terminal import say
    from lite_huatuo.report import page

    path = to or folder / "report.html"
    size = page.write(folder, path, most_samples=samples)
    say(f"{path}  {size / 2**20:.1f} MiB")
    if show:
        click.launch(str(path))
