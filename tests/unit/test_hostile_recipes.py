"""Hostile recipes, profiles and names: no object is made, no bomb goes off, no name leads out of its folder."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lite_huatuo import recipe as recipes
from lite_huatuo import schema
from lite_huatuo.data import sources
from lite_huatuo.errors import BackendError, ExportError, LiteHuatuoError, RecipeError, RecordError
from lite_huatuo.evaluation import benchmarks, predictions
from lite_huatuo.export import base_files, hub
from lite_huatuo.models import gguf

SHORT = "name: {name}\nbase: {{model: a/b, max_length: 2000}}\ndata: {{sft: s.jsonl, problems: p.jsonl}}\n{more}\n"


def load(folder: Path, text: str) -> recipes.Recipe:
    path = folder / "recipe.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return recipes.load(str(path))


def bomb(first: str, each: str, levels: int = 30) -> str:
    """Return YAML of a few lines that stands for 9 ** levels values."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} {each.format(','.join([f'*a{i - 1}'] * 9))}" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: !!python/object/apply:os.system ['touch here']", "could not determine a constructor"),
        ("name: !!python/name:os.system", "could not determine a constructor"),
        ("name: !!binary aGk=", "could not determine a constructor"),
        ("name: !!int x", "invalid literal"),
        ("name: !!bool x", "not valid YAML"),
        ("name: " + "9" * 5000, "not valid YAML"),
        (bomb("[x]", "[{}]"), "values with its aliases written out"),
        (bomb("{x: 1}", "{{<<: [{}]}}"), "values with its aliases written out"),
        ("a: &a [*a]", "inside one another"),
        ("[" * 10_000, "inside one another"),
        ("- " * 10_000, "inside one another"),
        ("{a: " * 10_000, "inside one another"),
        ("name: x\nname: y", "the key 'name' stands twice"),
        ("a: " + "x" * 300_000, "longer than 200,000 characters"),
        ("name: \0", "not valid YAML"),
        ("name: \x1b[2J", "not valid YAML"),
        ("name: \ud800", "cannot be read"),
        ("", "expected a mapping"),
        ("? [a]\n: b", "unhashable"),
        ("<<: 1", "merging"),
    ],
)
def test_hostile_yaml_is_one_clear_error(text: str, told: str, tmp_path: Path) -> None:
    begin = time.process_time()
    with pytest.raises(RecipeError, match=told) as caught:
        load(tmp_path, text)
    assert time.process_time() - begin < 10
    assert len(str(caught.value)) < 2000
    assert not (tmp_path / "here").exists()


def test_an_override_is_read_as_carefully() -> None:
    for value in ("!!python/name:os.system", "&a [*a]", "\0", "!!int x"):
        with pytest.raises(RecipeError, match="--set name"):
            recipes.load("demo", (f"name={value}",))


def test_benchmarks_of_ones_own_are_read_by_the_same_reader(tmp_path: Path) -> None:
    for text in ("x: !!python/name:os.system", bomb("[x]", "[{}]"), "../x: {}", "a\\x1b: {}", "x: &x {x: *x}"):
        (tmp_path / "own.yaml").write_text(text)
        with pytest.raises(RecipeError, match=r"own\.yaml"):
            benchmarks.own(tmp_path / "own.yaml")


def test_values_stay_plain() -> None:
    """A date, say, would be an object that no JSON can hold."""
    assert schema.parse("day: 2027-01-14\nlist: [1, 2.5, true, null, x]", "here") == {
        "day": "2027-01-14",
        "list": [1, 2.5, True, None, "x"],
    }


def test_many_problems_are_told_in_few_lines(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, SHORT.format(name="x", more="\n".join(f"k{i}: {{a: 1}}" for i in range(500))))
    assert str(caught.value).count("\n") <= schema.MOST_LINES
    assert "and 460 more" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../../x", "..", ".hidden", "/etc/x", "a/b", "a\\\\b", "x" * 200, "", "a\\u202eb", "a\\tb"]
)
def test_a_recipes_name_is_a_name(name: str, tmp_path: Path) -> None:
    """runs/<name>, and the names of exported files, are made of it."""
    with pytest.raises(RecipeError, match=r"name: .*files are called by it"):
        load(tmp_path, SHORT.format(name=f'"{name}"', more=""))


def test_names_that_people_give_are_taken(tmp_path: Path) -> None:
    for name in ("qwen7b-zh", "my own", "医学.v2", "2027-01-14", "a_b"):
        assert load(tmp_path, SHORT.format(name=name, more="")).name == name


@pytest.mark.parametrize("start", ["../../elsewhere", "/etc", "final/../x", "early/../../x", "early/step-1"])
def test_ppo_starts_from_a_folder_of_its_own_run(start: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="start_from"):
        load(tmp_path, SHORT.format(name="x", more=f"ppo: {{start_from: {start}}}"))


@pytest.mark.parametrize("target", ["../../etc/passwd", "..", "/", "http://h/../..", "a" * 50 + "/..", "\0", "\x1b[2J"])
def test_evaluations_of_any_target_stand_in_their_folder(target: str) -> None:
    name = predictions.slug(target)
    assert name not in ("", ".", "..")
    assert Path(name).name == name
    assert name.isprintable()


@pytest.mark.parametrize(
    "model",
    ["../x", "a/../b", "./a/b", "package:os.path/x.gguf", "package:/x.gguf", "package:../x/y.gguf", "a//b", "~x/y", "",
     "package:json/../../x.gguf", "\0/a", "a/b/c"],
)  # fmt: skip
def test_what_looks_like_a_path_is_no_hub_id(model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    if model == "\0/a":  # one slash: the Hub library refuses it itself, before it asks anyone
        from lite_huatuo.models import backends

        with pytest.raises(BackendError):
            backends.load(model, quantization="none")
        return
    with pytest.raises(BackendError, match=r"base\.model"):
        gguf.resolve(model)


@pytest.mark.parametrize("source", ["../x", "a/b/c", "shipped:../../x", "/etc", "a/../b", "x.txt", "\0", "shipped:"])
def test_a_data_source_is_a_file_or_a_hub_id(source: str) -> None:
    with pytest.raises(RecordError, match=r"source|shipped data|cannot be"):
        list(sources.rows(source))


@pytest.mark.parametrize("repo", ["../../x", "user", "a/b/c", "user/../..", "/x", "other/x"])
def test_only_ones_own_repository_is_pushed_to(repo: str) -> None:
    class Api:
        def whoami(self) -> dict[str, str]:
            return {"name": "user"}

    with pytest.raises(ExportError, match="--push"):
        hub._check_rights(Api(), repo)  # type: ignore[arg-type]


@pytest.mark.parametrize("shard", ["../x.safetensors", "/tmp/x.safetensors", "a/x.safetensors", "x.bin", "", 3, None])
def test_an_index_names_shards_in_its_own_folder(shard: object, tmp_path: Path) -> None:
    """Shards that were fetched for one export are deleted after use: a name that leads away would delete elsewhere."""
    import json

    (tmp_path / base_files.INDEX).write_text(json.dumps({"weight_map": {"w": shard}}))
    with pytest.raises(ExportError, match="no name of a safetensors file in its folder"):
        base_files.find(str(tmp_path), None)


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": []}', "[" * 100_000, "\xff"])
def test_a_damaged_index_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / base_files.INDEX).write_bytes(text.encode("latin-1"))
    with pytest.raises(ExportError, match="damaged index"):
        base_files.find(str(tmp_path), None)


def test_a_path_too_long_for_the_system_is_an_error_like_others() -> None:
    with pytest.raises(LiteHuatuoError):
        recipes.load("x" * 5000)
    with pytest.raises(LiteHuatuoError):
        list(sources.rows("x" * 5000 + ".jsonl"))


def test_a_home_that_nobody_has_is_an_error_like_others() -> None:
    for source in ("~nobody-here/x.jsonl", "~nobody-here/x.csv"):
        with pytest.raises(RecordError, match=r"no such file|cannot be read"):
            list(sources.rows(source))
    with pytest.raises(BackendError, match="no such folder"):
        gguf.resolve("~nobody-here/model")
