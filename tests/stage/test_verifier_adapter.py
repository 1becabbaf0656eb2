"""A verifier as the fourth role on the base: it learns, it is saved and loaded, and it moves nobody else by a bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from lite_huatuo import recipe as recipes
from lite_huatuo.errors import BackendError, RecordError
from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.prompts import tuned_judge
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import heldout, ppo, sft, verifier_train
from lite_huatuo.training.progress import Quiet
from lite_huatuo.training.verifier_train import Parts, split
from lite_huatuo.verifier import adapter
from lite_huatuo.verifier.adapter import AdapterVerifier, encode
from lite_huatuo.verifier.base import Item
from lite_huatuo.verifier.suite import Case
from tests import tiny


def judged(count: int = 300) -> list[Case]:
    """Replies that name one of the toy's cures, of which the first is always the right one: a random network learns
    that in seconds."""
    rng, rows, truth = random.Random(0), [], tiny.CURES[0]
    for n in range(count):
        said = truth if n % 2 else rng.choice(tiny.CURES[1:])
        question = f"Patient {n} has {rng.choice(tiny.SIGNS)}. Which cure?"
        rows.append(Case(str(n), question, said, truth, said == truth, "", "en"))
    return rows


def train(toy: dict[str, str], mode: str, epochs: int, **more: Any) -> tuple[AdapterVerifier, Parts]:
    parts = split(judged(), calibration=0.15, test=0.2)
    verifier = verifier_train.train(
        backends.load(toy["model"]),
        parts,
        mode=mode,
        rank=16,
        alpha=32,
        targets="all-linear",
        epochs=epochs,
        batch_size=16,
        learning_rate=5e-3,
        max_length=160,
        microbatch_tokens=4096,
        threshold=0.5,
        seed=0,
        **{"progress": Quiet(), **more},
    )
    return verifier, parts


@pytest.fixture(scope="module")
def trained(toy: dict[str, str]) -> tuple[AdapterVerifier, Parts]:
    return train(toy, "head", 4)


def accuracy(verifier: AdapterVerifier, rows: list[Case]) -> float:
    verdicts = verifier.verify([row.item for row in rows])
    return sum(v.correct == row.label for v, row in zip(verdicts, rows, strict=True)) / len(rows)


def test_it_learns_to_compare_and_is_calibrated(trained: tuple[AdapterVerifier, Parts]) -> None:
    verifier, parts = trained
    assert accuracy(verifier, parts.test) >= 0.9
    assert verifier.settings.temperature != 1.0
    verdicts = verifier.verify([row.item for row in parts.test])
    assert all(v.probability is not None and v.correct == (v.probability > 0.5) for v in verdicts)


def test_judging_by_a_word_needs_two_words_and_then_learns_too(
    toy: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendError, match="begin with the same token"):  # the toy's tokenizer has no such words
        train(toy, "token", 1)
    monkeypatch.setattr(adapter, "WORDS", ("r", "w"))
    verifier, parts = train(toy, "token", 2)
    assert verifier.head is None
    assert accuracy(verifier, parts.train) >= 0.8


def test_saved_and_loaded_it_judges_the_same(
    trained: tuple[AdapterVerifier, Parts], toy: dict[str, str], tmp_path: Path
) -> None:
    verifier, parts = trained
    verifier.save(tmp_path / "judge")
    assert not [path for path in (tmp_path / "judge").iterdir() if path.suffix not in (".json", ".safetensors")]
    shared = SharedBase.from_adapters(backends.load(toy["model"]), {"verifier": tmp_path / "judge"}, ())
    loaded = AdapterVerifier.load(shared, "verifier", tmp_path / "judge", threshold=0.5)
    items = [row.item for row in parts.test]
    assert loaded.probabilities(items) == verifier.probabilities(items)


def test_how_items_are_batched_does_not_matter(trained: tuple[AdapterVerifier, Parts]) -> None:
    verifier, parts = trained
    items = [row.item for row in parts.test]
    alone = [verifier.probabilities([item])[0] for item in items]
    assert verifier.probabilities(items) == pytest.approx(alone, abs=1e-5)


def test_the_fourth_role_moves_no_bit_of_the_others(
    trained: tuple[AdapterVerifier, Parts], toy: dict[str, str], toy_run: RunDir, tmp_path: Path
) -> None:
    verifier, parts = trained
    verifier.save(tmp_path / "judge")
    three = {"reference": toy_run.final("sft"), "actor": toy_run.final("ppo"), "critic": toy_run.final("ppo", "critic")}
    without = SharedBase.from_adapters(backends.load(toy["model"]), three, ("actor", "critic"))
    both = SharedBase.from_adapters(
        backends.load(toy["model"]), {**three, "verifier": tmp_path / "judge"}, ("actor", "critic")
    )
    judge = AdapterVerifier.load(both, "verifier", tmp_path / "judge", threshold=0.5)
    for name in three:
        outputs = []
        for shared in (without, both):
            with shared.using(name), torch.no_grad():
                if shared is both:
                    judge.verify([row.item for row in parts.test[:5]])
                outputs.append(shared.states([[2, 60, 70, 80, 3]]))
        assert outputs[0].equal(outputs[1]), name
    assert not any(parameter.requires_grad for parameter in both.parameters("verifier").values())


def test_a_run_judged_by_its_own_base(
    trained: tuple[AdapterVerifier, Parts], toy: dict[str, str], tmp_path: Path
) -> None:
    verifier, _ = trained
    verifier.save(tmp_path / "judge")
    tree = tiny.short_recipe(toy)
    tree["verifier"] = {"kind": "adapter", "adapter": str(tmp_path / "judge"), "threshold": 0.5}
    tree["ppo"]["watch"] = {"verifier": {"kind": "exact"}, "gap": None, "no_form_share": None}
    recipe = recipes.check(tree, "judged")
    run = RunDir.create(tmp_path / "run", recipe.model_dump())
    sft.train(recipe, run)
    with pytest.raises(BackendError, match="--accept-verifier"):
        ppo.train(recipe, run)  # a judge that knows the toy only
    ppo.train(recipe, run, accept_verifier=True)
    assert set(heldout.read_report(run.path / "eval")) == {"base", "sft", "ppo"}
    assert {path.name for path in run.stage("ppo").joinpath("final").iterdir()} == {
        "actor", "critic", "reference", "value_head.safetensors", "manifest.json",
    }  # fmt: skip


def test_a_text_that_is_too_long_loses_the_middle_of_its_reply(toy: dict[str, str]) -> None:
    words = backends.load(toy["model"]).tokenizer
    ids = encode(words, Item("Which cure?", "rest " + "and wait " * 200 + "water", "rest"), 128)
    text = words.decode(ids)
    assert len(ids) <= 128
    assert "Right answer: rest" in text
    assert "rest" in text.partition("Reply:")[2].partition("Rules")[0]
    assert "…" in text
    assert text.endswith("Is the reply right? Rules say: right. Letters in common: all"), "found in the whole reply"


def test_it_is_trained_on_the_text_that_it_judges(toy: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    write = tuned_judge.text

    def text(*parts: Any) -> str:
        seen.add(write(*parts))
        return write(*parts)

    monkeypatch.setattr(tuned_judge, "text", text)
    verifier, parts = train(toy, "head", 1)
    learnt, _ = set(seen), seen.clear()
    verifier.verify([row.item for row in parts.train])
    assert seen <= learnt
    assert all("Rules say: " in one for one in seen)


def test_a_split_keeps_the_replies_to_a_question_together() -> None:
    rows = [Case(str(n), f"question {n // 2}", "a", "b", bool(n % 2), "", "en") for n in range(400)]
    parts = split(rows)
    asked = [{row.question for row in part} for part in (parts.train, parts.calibration, parts.test)]
    assert sum(map(len, asked)) == len(set().union(*asked)), "no question is in two parts"
    assert sum(len(part) for part in (parts.train, parts.calibration, parts.test)) == 400


def test_too_few_rows_and_a_damaged_folder_are_told(toy: dict[str, str], toy_run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="give more"):
        split(judged(4))
    shared = SharedBase.from_adapters(backends.load(toy["model"]), {"verifier": toy_run.final("sft")}, ())
    with pytest.raises(BackendError, match=r"verifier\.json: not a verifier's settings"):
        AdapterVerifier.load(shared, "verifier", tmp_path, threshold=0.5)
