"""Write the generated parts of the docs, or check (`--check`) that they are what the code says today.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; this script fills it.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import click
import yaml
from click.testing import CliRunner

from lite_huatuo import jsonl
from lite_huatuo import recipe as recipes
from lite_huatuo.cli.main import COMMANDS, cli
from lite_huatuo.evaluation import answers, benchmarks, truth
from lite_huatuo.planning import cards as planning_cards
from lite_huatuo.planning import plan
from lite_huatuo.recipe import Recipe
from lite_huatuo.training.metrics import METRICS
from lite_huatuo.verifier.metrics import Share

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the tests' table of floors
from tests.test_floors import FLOORS  # noqa: E402

FILES = (
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{page}.md" for page in ("cli", "data", "evaluation", "recipes", "metrics", "planning")),
)
BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def metrics() -> str:
    """Return the table of metrics."""
    return _table(("metric", "meaning"), [(f"`{name}`", meaning) for name, meaning in METRICS.items()])


def command_help() -> str:
    """Return the --help text of every command."""
    return "\n".join(f"### `lite-huatuo {name}`\n\n```\n{text}\n```\n" for name, text in _helps())


def commands() -> str:
    """Return the one-line summaries."""
    return _table(("command", ""), [(f"`lite-huatuo {name}`", summary) for name, (_, summary) in COMMANDS.items()])


def recipe_list() -> str:
    """Return the table of shipped recipes."""
    rows = []
    for name in recipes.names():
        recipe, (_, text) = recipes.load(name), recipes.text(name)
        rows.append((f"`{name}`", recipe.base.model.rpartition("/")[2], text.split("\n")[0].partition(": ")[2]))
    return _table(("recipe", "base", "purpose"), rows)


def recipe_keys() -> str:
    """Return a table of keys, defaults and comments for every section of a recipe, read from the schema's source."""
    parts = []
    for path, section in _sections(Recipe, ""):
        comments = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(section), re.MULTILINE))
        rows = []
        for name, field in section.model_fields.items():
            if not _is_section(field.annotation):
                default = (
                    "required" if field.is_required() else f"`{_yaml(field.get_default(call_default_factory=True))}`"
                )
                rows.append((f"`{path}{name}`", default, comments.get(name, "")))
        if rows:
            parts.append(
                f"### {path.rstrip('.') or 'recipe'}\n\n{inspect.getdoc(section)}\n\n"
                + _table(("key", "default", ""), rows)
            )
    return "\n".join(parts)


def price_table() -> str:
    """Return what the dry run of a search prints."""
    words = "data search shipped:problems_en --to t.jsonl --teacher gpt-6-luna --dry-run"
    return CliRunner().invoke(cli, words.split(), catch_exceptions=False).stdout


def benchmark_list() -> str:
    """Return the table of shipped benchmarks."""
    rows = []
    for name, each in benchmarks.shipped().items():
        runs = f"{each.runs}, {'other orders' if each.shuffle else 'one order'}" if each.runs > 1 else "1"
        sources = each.sources[0] + (f" and {len(each.sources) - 1} more" if len(each.sources) > 1 else "")
        rows.append((f"`{name}`", each.title, f"`{sources}`", each.prompt, each.rule, runs, str(each.version)))
    return _table(("name", "questions", "source", "prompt", "rule", "runs", "version"), rows)


def reading_rules() -> str:
    """Return precision, recall and coverage of every reading rule on the labelled replies."""
    labelled = [
        row for path in sorted((ROOT / "tests/data").glob("readings_*.jsonl")) for _, row in jsonl.iter_rows(path)
    ]
    parts = {
        "all": labelled,
        "English": [row for row in labelled if row["language"] == "en"],
        "Chinese": [row for row in labelled if row["language"] == "zh"],
        "several letters": [row for row in labelled if len(row["stated"]) > 1],
    }
    rows = [
        (
            f"`{rule}`",
            name,
            *(_share(measure(chosen, rule)) for measure in (truth.precision, truth.recall, truth.coverage)),
        )
        for rule in answers.RULES
        for name, chosen in parts.items()
    ]
    return _table(("rule", "replies", "precision", "recall", "coverage"), rows)


def plan_table() -> str:
    """Return the peak of every shipped recipe on one card of each size, and what to change where it does not fit."""
    cards = dict(zip(planning_cards.CARDS.values(), planning_cards.CARDS, strict=True))  # one of each size
    rows = []
    for name in recipes.names():
        recipe = recipes.load(name)
        shape, _ = plan.shape_of(recipe)
        needs = plan.make(recipe, shape, None).peak
        cells = []
        for card in map(planning_cards.find, cards.values()):
            changes = plan.suggest(recipe, shape, card)
            made = plan.make(recipe, shape, card)
            many = f", {made.rows} at once" if recipe.ppo.rollout.batch_size == "auto" else ""
            cells.append("no" if changes is None else f"yes{many}" if not changes else f"with {' '.join(changes)}")
        rows.append((f"`{name}`", f"{needs.total / 2**30:.1f} ({needs.name})", *cells))
    return _table(("recipe", "peak, GiB (in)", *cards.values()), rows)


def plan_example() -> str:
    """Return what `plan` prints for a student on 24 GB."""
    words = "plan --recipe qwen7b --gpu rtx4090 --tokens-per-second 1000"
    return f"```\n{CliRunner().invoke(cli, words.split(), catch_exceptions=False).stdout}```\n"


def floors() -> str:
    """Return the picture of the floors, from the table that the tests hold."""
    lines = []
    for floor, modules in sorted(FLOORS.items(), reverse=True):
        rooms: dict[str, list[str]] = {}
        for module in modules:
            folder, _, name = module.partition(".")
            rooms.setdefault(folder if name else "", []).append(name or folder)
        for number, folder in enumerate(sorted(rooms)):
            part = f"{folder + ': ' if folder else ''}{', '.join(filter(None, rooms[folder]))}"
            lines += textwrap.wrap(
                part,
                width=100,
                initial_indent="    " if number else f" {floor}  ",
                subsequent_indent="      ",
                break_on_hyphens=False,
            )
        lines.append(" " + "─" * 100)
    return "\n".join(["```", *lines[:-1], "```", ""])


BLOCKS: dict[str, Callable[[], str]] = {
    "floors": floors,
    "price-table": price_table,
    "plan-table": plan_table,
    "plan-example": plan_example,
    "benchmark-list": benchmark_list,
    "reading-rules": reading_rules,
    "metrics": metrics,
    "command-help": command_help,
    "commands": commands,
    "recipe-list": recipe_list,
    "recipe-keys": recipe_keys,
}


def fill(text: str) -> str:
    """Return the text with every generated part written anew."""
    return BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]]()}{match[3]}", text)


def main(check: bool) -> int:
    """Write or check all files; return the number of stale ones."""
    stale = []
    for name in FILES:
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        new = fill(old)
        if new != old:
            stale.append(name)
            if not check:
                path.write_text(new, encoding="utf-8")
    if stale:
        print(f"{'stale, run python docs/generate.py' if check else 'written'}: {', '.join(stale)}")
    return len(stale) if check else 0


def _helps() -> list[tuple[str, str]]:
    found = []
    context = click.Context(cli, info_name="lite-huatuo", **cli.context_settings)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        own = click.Context(command, info_name=name, parent=context, max_content_width=100, terminal_width=100)
        found.append((name, command.get_help(own)))
        if isinstance(command, click.Group):
            found += [
                (f"{name} {sub}", child.get_help(click.Context(child, info_name=sub, parent=own, terminal_width=100)))
                for sub, child in command.commands.items()
            ]
    return found


def _sections(section: type, path: str) -> list[tuple[str, type]]:
    found = [(path, section)]
    for name, field in section.model_fields.items():  # type: ignore[attr-defined]
        if _is_section(field.annotation):
            found += _sections(field.annotation, f"{path}{name}.")
    return found


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, recipes.Section)


def _share(share: Share) -> str:
    value = "none" if share.value is None else f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"
    return f"{value} ({share.hits}/{share.n})"


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("...").strip()


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return (
        "\n".join(lines + [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows])
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
