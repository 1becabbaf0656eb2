"""`plan` as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from lite_huatuo import recipe as recipes

CARDS = ("rtx3060", "rtx4090", "a100")


def told(run, *words):
    code, out, err = run("plan", *words, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("name", recipes.names())
@pytest.mark.parametrize("gpu", CARDS)
def test_every_shipped_recipe_has_a_plan_on_every_card(run, name, gpu):
    found = told(run, "--recipe", name, "--gpu", gpu)
    assert set(found["phases"]) == {"load", "SFT", "rollout", "scoring", "update", "export"}
    for phase in found["phases"].values():
        assert phase.pop("total") == sum(phase.values())
    assert found["fits"] == (found["peak"]["bytes"] <= found["usable"])
    assert found["measured_on_gpu"] is False


@pytest.mark.parametrize("name", ["qwen7b", "qwen7b-zh", "llama8b"])
def test_the_small_students_fit_24_gb(run, name):
    assert told(run, "--recipe", name, "--gpu", "24gb")["fits"]


@pytest.mark.parametrize("name", ["qwen72b", "llama70b"])
def test_the_large_students_want_80_gb_or_several_cards(run, name):
    assert told(run, "--recipe", name, "--gpu", "h100")["fits"]
    alone = told(run, "--recipe", name, "--gpu", "24gb")
    assert (alone["fits"], alone["overrides"]) == (False, None)
    assert told(run, "--recipe", f"{name}-48gb", "--gpu", "l40s")["fits"]
    shared = ["--set", "launch.strategy=fsdp2", "--set", "ppo.rollout.batch_size=4", "--set", "eval.batch_size=4"]
    assert told(run, "--recipe", name, "--gpu", "24gb", "--gpus", 8, *shared)["fits"]


def test_the_suggested_overrides_make_it_fit(run):
    large = {
        "ppo.rollout.batch_size": 128,
        "eval.batch_size": 64,
        "sft.microbatch_size": 16,
        "ppo.microbatch_tokens": 65536,
    }
    words = ["--recipe", "qwen7b", "--gpu", "16gb"]
    words += [word for key, value in large.items() for word in ("--set", f"{key}={value}")]
    found = told(run, *words)
    assert not found["fits"]
    assert found["overrides"]
    more = [word for override in found["overrides"] for word in ("--set", override)]
    assert told(run, *words, *more)["fits"]
    out = run("plan", *words)[1]
    assert f"fits with: {' '.join(more)}" in out


def test_how_many_replies_are_written_at_once_is_told(run):
    words = ["--recipe", "qwen7b", "--gpu"]
    small, large = (told(run, *words, gpu)["replies_at_once"] for gpu in ("12gb", "24gb"))
    assert 1 < small < large
    assert f"writes {large} replies at once (auto: as many as fit)" in run("plan", *words, "24gb")[1]
    chosen = run("plan", *words, "24gb", "--set", "ppo.rollout.batch_size=32")[1]
    assert "writes 32 replies at once\n" in chosen


def test_no_number_is_suggested_in_place_of_auto(run):
    found = told(run, "--recipe", "qwen72b", "--gpu", "a6000")
    assert not found["fits"]
    assert not any("batch_size" in override for override in found["overrides"])


def test_the_table_adds_up(run):
    _, out, _ = run("plan", "--recipe", "llama8b", "--gpu", "rtx4090", "--tokens-per-second", 1000)
    head, *rows = re.search(r"\n( +load .*?)\n\n", out, re.DOTALL)[1].split("\n")
    ends = [match.end() for match in re.finditer(r"\S+", head)]
    cells = [[row[end - 9 : end].strip() for end in ends] for row in rows]
    for column in zip(*cells, strict=True):
        *parts, total = (float(cell or 0) for cell in column)
        assert total == pytest.approx(sum(parts), abs=0.01 * len(parts))
    assert "hours at 1000 tokens a second" in out
    assert "predicted, not measured on a GPU" in out


def test_without_a_card_those_that_fit_are_named(run):
    _, out, _ = run("plan", "--recipe", "llama70b")
    assert "fits  A6000, A100, H100, H200\n" in out  # on the first with one reply at a time
    assert "writes 8 replies at once (auto: on a card as many as fit)\n" in out


def test_on_a_cpu_main_memory_counts(run):
    found = told(run, "--recipe", "demo", "--gpu", "cpu")
    assert found["card"] == "the CPU"
    assert "CUDA context" not in found["phases"]["update"]
    assert found["phases"]["SFT"]["base, kept dequantised"] == 4 * 106_168_320  # 30 layers of 3,538,944 weights


def test_more_cards_share_a_base_by_layers_but_not_by_data(run):
    sizes = {
        (strategy, cards): told(
            run, "--recipe", "qwen72b", "--set", f"launch.strategy={strategy}", "--gpu", "a6000", "--gpus", cards
        )["phases"]["load"]["total"]
        for strategy in ("ddp", "fsdp2")
        for cards in (1, 4)
    }
    assert sizes["ddp", 4] == sizes["ddp", 1]
    assert sizes["fsdp2", 4] < sizes["ddp", 1] * 0.6
    assert sizes["fsdp2", 1] == sizes["ddp", 1]


def test_what_fsdp2_shards_is_the_layers_weights(run):
    words = ["--recipe", "qwen72b-48gb", "--gpu", "a6000"]
    parts, alone = (told(run, *words, "--gpus", cards)["phases"]["load"] for cards in (4, 1))
    layers = alone["base, 4 bit"]
    assert parts["base, 4 bit"] == -(-layers // 4)
    assert parts["gathered layers"] == 2 * layers // 80
    assert {name: parts[name] for name in ("quantisation constants", "base, not quantised")} == {
        name: alone[name] for name in ("quantisation constants", "base, not quantised")
    }
    (note,) = (text for text in told(run, *words)["notes"] if "main memory" in text)
    assert "4 × 38 GiB" in note


def test_a_rollout_holds_the_layers_where_the_card_has_room(run):
    def found(gpu):
        plan = told(run, "--recipe", "qwen72b-48gb", "--gpu", gpu)
        (note,) = (note for note in plan["notes"] if "rollout" in note)
        return (
            plan["phases"]["rollout"]["gathered layers"],
            plan["phases"]["update"]["gathered layers"],
            note,
            plan["fits"],
        )

    layers = told(run, "--recipe", "qwen72b-48gb", "--gpu", "a100", "--gpus", 1)["phases"]["load"]["base, 4 bit"]
    held, two, note, fits = found("a100")
    assert (held, two, fits) == (layers, 2 * layers // 80, True)
    assert note == "each rollout gathers the base's layers once and holds them: 32.7 GiB on each card"
    held, two, note, fits = found("a6000")
    assert (held, two, fits) == (2 * layers // 80, 2 * layers // 80, True)
    # three quarters of the layers for each of 1,300 steps of two batches in each of 156 updates
    hours = 156 * 2 * 1300 * layers * 3 / 4 / 25e9 / 3600
    assert f"each step gathers {layers * 3 / 4 / 2**30:.1f} GiB" in note
    assert f"at most {hours:.0f} hours at 25 GB/s (assumed, not measured)" in note


def test_steps_tokens_and_disk(run):
    found = told(run, "--recipe", "qwen7b", "--tokens-per-second", "1000")
    work = found["work"]
    assert work["updates"] == 156  # 20,000 episodes, 128 at a time
    assert work["ppo_steps"] == 468
    assert work["sft_steps"] == 459  # 99 % of 19,704 examples, 128 at a time, three times over
    assert work["hours"] == pytest.approx(work["tokens"] / 3_600_000)
    assert work["written"] <= work["most_written"]
    assert found["disk"]["download"] == 2 * 7_615_616_512
    assert any("19,704 rows as published" in note for note in found["notes"])


def test_shipped_data_are_counted(run):
    found = told(run, "--recipe", "demo")
    assert found["work"]["sft_steps"] == 57  # 76 of 80 examples, 4 at a time, three times over
    assert found["notes"] == []


def test_a_judge_behind_an_api_and_a_teacher_are_priced(run):
    assert told(run, "--recipe", "demo")["calls"] == []
    words = ["--recipe", "demo", "--set", "verifier.kind=api", "--set", "verifier.profile=gpt-6-luna"]
    judge, teacher = told(run, *words, "--teacher", "gpt-6-luna")["calls"]
    assert (judge["role"], teacher["role"]) == ("judge", "teacher")
    assert judge["calls"] == 48 + 2 * 12 + 3 * 20  # episodes, selection before PPO and once in it, held out
    assert judge["dollars"] > 0
    assert teacher["dollars"] > 0
    assert teacher["calls"] > 76


def test_a_base_that_is_not_here_wants_its_config(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tree = recipes.load("demo").model_dump()
    tree["base"].update(model="nobody/nothing-7b", fallback=None)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    code, _, err = run("plan", "--recipe", path)
    assert code == 1
    assert "base.model: nobody/nothing-7b: its config.json is not on this machine" in err
    assert "--config FILE" in err
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "model_type": "llama",
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 128,
                "vocab_size": 100,
            }
        )
    )
    assert told(run, "--recipe", path, "--config", config)["parameters"] == 2 * (4 * 64 * 64 + 3 * 64 * 128) + (
        2 * 100 * 64 + 2 * 2 * 64 + 64
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("[]", "not a model's config.json"),
        ('{"model_type": "bert"}', "model_type bert: memory can be predicted for"),
        ('{"model_type": "llama", "hidden_size": "many"}', "not a model's config.json (invalid"),
    ],
)
def test_a_bad_config_is_told(run, tmp_path, content, said):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    code, out, err = run("plan", "--recipe", "demo", "--config", path)
    assert (code, out) == (1, "")
    assert f"error: {path}: " in err
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_local_model_is_found(run, toy, tmp_path):
    found = told(run, "--recipe", "demo", "--set", f"base.model={toy['model']}")
    assert found["config"] == str(Path(toy["model"]) / "config.json")


def test_a_classifier_that_judges_is_counted_or_told(run):
    words = ["--recipe", "demo", "--set", "verifier.kind=classifier", "--set", "verifier.template='{question}'"]
    known = told(run, *words, "--set", "verifier.model=HuggingFaceTB/SmolLM2-135M-Instruct")
    assert known["phases"]["SFT"]["judge"] == 2 * 134_515_008
    unknown = told(run, *words, "--set", "verifier.model=nobody/judge-3b")
    assert "judge" not in unknown["phases"]["SFT"]
    assert any(note.startswith("the classifier that judges is not counted: ") for note in unknown["notes"])


@pytest.mark.parametrize("gpu", ["rtx 9999", "0gb", "-3", ""])
def test_an_unknown_card_is_told(run, gpu):
    code, _, err = run("plan", "--recipe", "demo", "--gpu", gpu)
    assert code == 1
    assert f"error: --gpu {gpu}: no such card; give one of rtx3060, " in err


@pytest.mark.parametrize("gpu", ["RTX 4090", "rtx4090", "4090", "nvidia geforce rtx-4090", "24gb", "24"])
def test_cards_have_many_spellings(run, gpu):
    assert told(run, "--recipe", "demo", "--gpu", gpu)["usable"] == round(0.98 * 24 * 2**30)
