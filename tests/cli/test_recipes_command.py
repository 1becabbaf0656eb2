"""`recipes` and the commands' help as a user meets them."""

import json
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from lite_huatuo import recipe
from lite_huatuo.cli.main import cli


def test_list_tells_every_recipe_and_its_purpose(run):
    code, out, _ = run("recipes", "list")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert code == 0
    assert list(lines) == recipe.names()
    assert lines["demo"].startswith("both stages on a CPU")
    assert json.loads(run("recipes", "list", "--json")[1]) == lines


def test_show_prints_the_file_with_its_comments(run):
    assert run("recipes", "show", "demo") == (0, recipe.text("demo")[1], "")


def test_show_resolved_fills_in_every_default_and_is_a_recipe(run, tmp_path):
    code, out, _ = run("recipes", "show", "llama8b", "--resolved")
    assert code == 0
    assert yaml.safe_load(out)["ppo"]["sample_every"] == 5  # not in the file
    (tmp_path / "resolved.yaml").write_text(out, encoding="utf-8")
    assert recipe.load(str(tmp_path / "resolved.yaml")) == recipe.load("llama8b")


def test_show_with_set_shows_the_value(run):
    _, out, _ = run("recipes", "show", "demo", "--set", "ppo.kl_coef=5e-2")
    assert yaml.safe_load(out)["ppo"]["kl_coef"] == 0.05


def test_check_says_ok(run, tmp_path):
    (tmp_path / "mine.yaml").write_text(recipe.text("demo")[1], encoding="utf-8")
    assert run("recipes", "check", "qwen7b") == (0, "ok\n", "")
    assert run("recipes", "check", tmp_path / "mine.yaml") == (0, "ok\n", "")


def test_check_tells_every_problem_and_exits_1(run, tmp_path):
    path = tmp_path / "mine.yaml"
    spoiled = recipe.text("demo")[1].replace("kl_coef:", "kl_coeff:").replace("gamma: 1.0", "gamma: 7")
    path.write_text(spoiled, encoding="utf-8")
    code, out, err = run("recipes", "check", path)
    assert (code, out) == (1, "")
    assert f"error: {path}: ppo.kl_coeff: unknown key; did you mean kl_coef?\n" in err
    assert f"error: {path}: ppo.gamma: " in err
    assert len(err.splitlines()) == 2


def test_check_with_a_bad_set_exits_1(run):
    code, _, err = run("recipes", "check", "demo", "--set", "ppo.kl_coef")
    assert code == 1
    assert err == "error: --set ppo.kl_coef: expected key.path=value, such as ppo.kl_coef=0.05\n"


@pytest.mark.parametrize("subcommand", [["show"], ["check"], ["copy"]])
def test_an_unknown_recipe_suggests_the_nearest(run, subcommand, tmp_path):
    to = [tmp_path / "x.yaml"] if subcommand == ["copy"] else []
    code, out, err = run("recipes", *subcommand, "qwen7", *to)
    assert (code, out) == (1, "")
    assert err == "error: qwen7: no such recipe or file; did you mean qwen7b?\n"


def test_copy_writes_the_recipe_and_says_how_to_go_on(run, tmp_path):
    path = tmp_path / "mine.yaml"
    code, out, _ = run("recipes", "copy", "qwen7b", path)
    assert code == 0
    assert path.read_text(encoding="utf-8") == recipe.text("qwen7b")[1]
    assert f"lite-huatuo train --recipe {path}" in out
    assert run("recipes", "check", path)[:2] == (0, "ok\n")


def test_copy_into_a_folder_keeps_the_name(run, tmp_path):
    assert run("recipes", "copy", "demo", tmp_path)[0] == 0
    assert (tmp_path / "demo.yaml").is_file()


def test_copy_refuses_an_existing_file_unless_forced(run, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("precious", encoding="utf-8")
    code, _, err = run("recipes", "copy", "demo", path)
    assert code == 1
    assert "exists already" in err
    assert "--force" in err
    assert path.read_text(encoding="utf-8") == "precious"
    assert run("recipes", "copy", "demo", path, "--force")[0] == 0
    assert path.read_text(encoding="utf-8") == recipe.text("demo")[1]


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_copy_to_a_place_that_cannot_be_written_says_why(run, tmp_path, force):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for to, why in (
        (tmp_path / "no" / "mine.yaml", f"there is no folder {tmp_path / 'no'}"),
        (tmp_path / "file" / "mine.yaml", f"there is no folder {tmp_path / 'file'}"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ):
        code, out, err = run("recipes", "copy", "demo", to, *force)
        assert (code, out) == (1, "")
        assert why in err
        assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_recipes_need_no_torch(tmp_path):
    told = (
        "import sys; sys.argv = ['lite-huatuo', 'recipes', 'show', 'demo', '--resolved']\n"
        "from lite_huatuo.cli.main import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    "command",
    [["doctor"], ["recipes"], ["recipes", "list"], ["recipes", "show"], ["recipes", "check"], ["recipes", "copy"]],
)
def test_help_has_a_summary_and_an_example(command):
    shown = CliRunner().invoke(cli, [*command, "--help"]).output
    assert f"  lite-huatuo {' '.join(command)}" in shown


@pytest.mark.parametrize(
    "arguments", [["recipes", "list", "extra"], ["recipes", "copy", "demo"], ["recipes", "draw"], ["doctor", "--fast"]]
)
def test_wrong_usage_exits_2(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: " in err
