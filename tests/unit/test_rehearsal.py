"""The parts of a rehearsal: the twin keeps what is no size, the short recipe what decides which code runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo import recipe as recipes
from lite_huatuo.errors import BackendError
from lite_huatuo.planning import config_file
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.rehearsal import blame, data, known, run, short, tokens, twin

IDS = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
SIZES = {
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "max_window_layers", *twin.SIZES, *IDS,
}  # fmt: skip


ROWS = {name: Path(f"/{name}") for name in ("sft", "problems", "heldout")}


def config_of(recipe: str) -> dict[str, Any]:
    return config_file.find(recipes.load(recipe).base.model, fallback=recipes.load(recipe).base.fallback)[0]


@pytest.mark.parametrize("name", recipes.names())
def test_a_twin_differs_in_sizes_only(name: str) -> None:
    base = config_of(name)
    small = twin.shrink(base, 512, IDS)
    assert {key: value for key, value in small.items() if key not in SIZES} == {
        key: value for key, value in base.items() if key not in SIZES
    }
    ratio = base["num_attention_heads"] // base["num_key_value_heads"]
    assert small["num_attention_heads"] // small["num_key_value_heads"] == ratio
    assert small["num_hidden_layers"] * small["hidden_size"] <= twin.LAYERS * twin.WIDEST


def test_a_twin_has_every_kind_of_layer() -> None:
    base = {**config_of("qwen7b"), "layer_types": ["sliding_attention"] * 5 + ["full_attention"] * 3}
    small = twin.shrink(base, 512, IDS)
    assert set(small["layer_types"]) == {"sliding_attention", "full_attention"}
    assert small["num_hidden_layers"] == len(small["layer_types"]) == 6


def test_the_twin_is_built_as_its_family_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2 has biases on queries, keys and values, Llama 3.1 its scaled rope; both load like any base."""
    from lite_huatuo.models import backends

    monkeypatch.setattr(twin, "STEPS", 1)
    problems = [VerifiableProblem("a", "What?", "this", "en", "test"), VerifiableProblem("b", "Who?", "me", "en", "t")]
    for name, biased, rope, begins in (
        ("qwen7b", True, "default", False),
        ("llama8b", False, "llama3", True),
    ):
        folder = twin.make(config_of(name), problems, tmp_path)
        loaded = backends.load(str(folder), backend="plain")
        assert loaded.packs
        assert (loaded.model.model.layers[0].self_attn.q_proj.bias is not None) == biased
        assert loaded.model.config.rope_parameters["rope_type"] == rope
        bos = loaded.tokenizer.hf.bos_token_id
        assert (bos is not None and loaded.tokenizer.query("What?")[0] == bos) == begins
        assert twin.make(config_of(name), problems, tmp_path) == folder, "made once"
    assert not list(tmp_path.glob(".tmp*"))


def test_a_base_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    problems = [VerifiableProblem("a", "What?", "this", "en", "test")]
    with pytest.raises(BackendError, match="model_type martian: no twin"):
        twin.make({**config_of("qwen7b"), "model_type": "martian"}, problems, tmp_path)


def test_a_chat_has_the_family_s_marks() -> None:
    made = tokens.make_tokenizer(["hello you"], tokens.HEADERS)
    text = made.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    made = tokens.make_tokenizer(["hello you"], tokens.CHATML)
    text = made.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


# What a rehearsal may change of a recipe; everything else must stay.
CHANGED = {
    "name", "report_to", "verifier", "base.model", "base.fallback", "base.revision", "base.chat_template",
    "base.compute_dtype", "base.backend", "base.attention", "data.sft", "data.problems", "data.heldout",
    "data.sft_limit", "data.problems_limit", "data.heldout_limit", "data.heldout_share", "data.sft_eval_share",
    "sft.batch_size", "sft.epochs", "sft.log_every", "sft.eval_every", "sft.save_every", "sft.early_checkpoints",
    "ppo.minibatches", "ppo.critic_warmup_updates", "ppo.total_episodes", "ppo.rollout.episodes",
    "ppo.rollout.max_reply_length", "ppo.rollout.batch_size", "ppo.rollout.engine", "ppo.critic.layers",
    "ppo.start_from", "ppo.selection_problems", "ppo.samples", "ppo.eval_every", "ppo.save_every",
    "ppo.sample_every", "ppo.watch.patience", "ppo.watch.verifier", "eval.max_reply_length", "eval.batch_size",
    "eval.benchmarks", "export.repo", "launch.processes",
}  # fmt: skip


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and f"{prefix}{key}" not in CHANGED:
            found.update(leaves(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


@pytest.mark.parametrize("name", recipes.names())
def test_what_decides_the_code_stays_as_the_recipe_has_it(name: str) -> None:
    recipe = recipes.load(name)
    made = short.shorten(recipe, twin=Path("/twin"), rows=ROWS, verifier={"kind": "exact"}, on="cpu", processes=1)
    before, after = leaves(recipe.model_dump()), leaves(made.tree)
    differing = {key for key in before | after if before.get(key) != after.get(key)}
    assert differing <= CHANGED
    rehearsed = recipes.check(made.tree, "made")
    assert rehearsed.ppo.updates >= 2 * rehearsed.ppo.save_every + rehearsed.ppo.critic_warmup_updates
    assert rehearsed.ppo.updates >= 2 * rehearsed.ppo.eval_every
    expected = "float32" if recipe.base.keep_dequantised else "bfloat16"
    assert rehearsed.base.compute_dtype in (expected, "auto" if expected == "float32" else expected)


def test_files_of_the_user_s_own_are_read_and_stand_ins_are_named(tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text("{}\n")
    recipe = recipes.load("qwen7b", (f"data.problems={mine}", "ppo.rollout.engine=vllm", "base.backend=unsloth"))
    made = short.shorten(recipe, twin=tmp_path, rows=ROWS, verifier={"kind": "exact"}, on="cpu", processes=1)
    assert made.tree["data"]["problems"] == str(mine)
    assert made.tree["data"]["sft"] == "/sft"
    text = "\n".join(made.stand_ins)
    for named in ("data.sft: a few rows", "base.backend: plain for unsloth", "for vllm"):
        assert named in text
    on_card = short.shorten(recipe, twin=tmp_path, rows=ROWS, verifier={"kind": "exact"}, on="cuda", processes=1)
    assert on_card.tree["base"]["backend"] == "unsloth"
    assert on_card.tree["base"]["compute_dtype"] == "auto"
    assert on_card.tree["ppo"]["rollout"]["engine"] == "vllm"


def test_the_setting_to_blame_is_the_one_that_mends_it() -> None:
    tree = recipes.load("qwen7b").model_dump()
    tried: list[str] = []

    def passes(changed: dict[str, Any]) -> bool:
        tried.append(changed["ppo"]["optimizer"])
        return changed["ppo"]["gradient_checkpointing"] is False

    before = copy.deepcopy(tree)
    assert blame.find(tree, passes) == "ppo.gradient_checkpointing: True"
    assert tried[0] == "adamw", "one at a time, the optimizer first"
    assert tree == before
    assert blame.find(tree, lambda changed: False) is None


def test_exam_questions_have_one_right_option() -> None:
    problems = [VerifiableProblem(f"p{n}", f"Question {n}?", f"truth {n}", "en", "test") for n in range(6)]
    for row, problem in zip(data.exam(problems), problems, strict=False):
        assert row["options"][row["answer_idx"]] == problem.ground_truth == row["answer"]
        assert len(set(row["options"].values())) == 4


def test_a_rehearsal_is_known_by_its_settings() -> None:
    recipe = recipes.load("qwen7b")
    assert not known.survived(recipe, "cpu")
    known.note(recipe, "cpu", {"survives": True})
    assert known.survived(recipe, "cpu")
    assert not known.survived(recipe, "cuda")
    assert not known.survived(recipes.load("qwen7b", ("sft.optimizer=adamw",)), "cpu")
    known.note(recipe, "cpu", {"survives": False})
    assert not known.survived(recipe, "cpu")


def test_the_outline_names_what_stands_in_and_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LITE_HUATUO_CACHE", str(tmp_path / "cache"))
    judge = ("verifier.kind=classifier", "verifier.model=org/judge", "verifier.template='{response} {ground_truth}'")
    stand_ins, names = run.outline(recipes.load("qwen72b", judge), on="cpu")
    assert any("untrained small classifier for org/judge" in line for line in stand_ins)
    assert "launch.processes: 2 of 8" in stand_ins
    assert names[:3] == ["train", "kill", "resume"]
    assert "first minute" not in names
    assert "first minute" in run.outline(recipes.load("qwen72b"), on="cuda", cards=8)[1]
    assert not list(tmp_path.iterdir())
