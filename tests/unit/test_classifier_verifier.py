"""The classifier verifier, with a tiny random model that stands in a folder as a user's would."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from lite_huatuo.errors import BackendError
from lite_huatuo.verifier.base import Item, Verifier
from lite_huatuo.verifier.classifier import ClassifierVerifier, fill
from tests import tiny

TEMPLATE = "Response: {response}\nTruth: {ground_truth}\nRight?"
ITEMS = [Item("Which cure?", "rest " * (n % 7 + 1), "water" if n % 2 else "salt") for n in range(17)]


def make(folder: Path, labels: int) -> Path:
    """Save a random classifier whose outputs differ clearly between texts."""
    tokenizer = tiny.make_tokenizer([TEMPLATE, "rest water salt light"], 300)
    torch.manual_seed(labels)
    model = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_labels=labels,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0,
            bos_token_id=None, initializer_range=0.2,
        )
    )  # fmt: skip
    model.score.weight.data.div_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("classifier"), 2)


def reference(folder: Path, item: Item) -> torch.Tensor:
    """Return the logits of one item, computed without our code."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    text = TEMPLATE.replace("{response}", item.final_response).replace("{ground_truth}", item.ground_truth)
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        return AutoModelForSequenceClassification.from_pretrained(folder)(**tokens).logits[0]


def test_verdicts_are_the_models_whatever_shares_their_batch(model: Path) -> None:
    verifier = ClassifierVerifier(str(model), template=TEMPLATE, threshold=0.5, batch_tokens=200)
    assert isinstance(verifier, Verifier)
    verdicts = verifier.verify(ITEMS)
    wanted = [torch.softmax(reference(model, item), 0)[1].item() for item in ITEMS]
    assert [verdict.probability for verdict in verdicts] == pytest.approx(wanted, abs=1e-5)
    assert [verdict.correct for verdict in verdicts] == [p > 0.5 for p in wanted]
    assert max(wanted) - min(wanted) > 0.05, "the random model says the same of everything"
    assert verifier.verify([]) == []


def test_label_and_threshold_are_the_recipes(model: Path) -> None:
    (right,) = ClassifierVerifier(str(model), template=TEMPLATE, threshold=0.0).verify(ITEMS[:1])
    (other,) = ClassifierVerifier(str(model), template=TEMPLATE, label=0, threshold=1.0).verify(ITEMS[:1])
    assert right.correct is True
    assert other.correct is False
    assert right.probability is not None
    assert other.probability == pytest.approx(1 - right.probability, abs=1e-6)
    with pytest.raises(BackendError, match=r"verifier.label: 2; .* has the labels 0 to 1"):
        ClassifierVerifier(str(model), template=TEMPLATE, label=2)


def test_a_single_output_is_read_by_the_logistic_function(tmp_path: Path) -> None:
    folder = make(tmp_path, 1)
    verdicts = ClassifierVerifier(str(folder), template=TEMPLATE).verify(ITEMS[:3])
    wanted = [torch.sigmoid(reference(folder, item))[0].item() for item in ITEMS[:3]]
    assert [verdict.probability for verdict in verdicts] == pytest.approx(wanted, abs=1e-5)


def test_nf4_loads_in_four_bits_and_judges(model: Path) -> None:
    verifier = ClassifierVerifier(str(model), template=TEMPLATE, quantization="nf4")
    kinds = {type(module).__name__ for module in verifier.model.modules()}
    assert "Linear4bit" in kinds
    full = ClassifierVerifier(str(model), template=TEMPLATE).verify(ITEMS)
    for ours, theirs in zip(verifier.verify(ITEMS), full, strict=True):
        assert ours.probability == pytest.approx(theirs.probability, abs=0.1)  # a random net of 64 units, in four bits


def test_a_text_that_does_not_fit_is_a_failure(model: Path) -> None:
    verifier = ClassifierVerifier(str(model), template=TEMPLATE)
    verdicts = verifier.verify([ITEMS[0], Item("?", "rest " * 400, "salt"), ITEMS[1]])
    assert [verdict.correct is None for verdict in verdicts] == [False, True, False]
    assert "the classifier reads 128" in (verdicts[1].failure or "")


def test_an_output_that_is_no_number_is_a_failure(model: Path) -> None:
    verifier = ClassifierVerifier(str(model), template=TEMPLATE)
    verifier.model.score.weight.data.fill_(float("nan"))
    assert all("not a number" in (verdict.failure or "") for verdict in verifier.verify(ITEMS[:2]))


def test_texts_are_filled_in_literally() -> None:
    item = Item("{response}", "{ground_truth} {0} {{question}} \\1", "{question}")
    filled = fill("{question}|{response}|{ground_truth}|{other}|{}", item)
    assert filled == "{response}|{ground_truth} {0} {{question}} \\1|{question}|{other}|{}"


def test_what_cannot_be_used_is_told(tmp_path: Path, model: Path) -> None:
    with pytest.raises(BackendError, match=r"verifier.template: \{ground_truth\} is missing"):
        ClassifierVerifier(str(model), template="{response}")
    with pytest.raises(BackendError, match=r"verifier.model: .*nothing: cannot be loaded"):
        ClassifierVerifier(str(tmp_path / "nothing"), template=TEMPLATE)
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BackendError, match="cannot be loaded"):
        ClassifierVerifier(str(broken), template=TEMPLATE)
