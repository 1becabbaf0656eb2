"""The model card: what the Hub reads, what people read, and whose licence it carries."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from huggingface_hub import ModelCard

from lite_huatuo import jsonl
from lite_huatuo import recipe as recipes
from lite_huatuo.export import card_facts, curves, licences, model_card

SUMMARY = {"problems": 20, "failed": 4, "well_formed": 18, "right": 8, "score": 0.5, "length": 99.6}
SHARE = {"value": 0.98, "low": 0.95, "high": 0.99, "hits": 98, "n": 100}
MERGED = {
    "onto": "base",
    "dtype": "bfloat16",
    "tensors": 30,
    "logits": "compared",
    "kl_to_unmerged": 1e-4,
    "kl_to_trained": 0.05,
    "licence_files": ["LICENSE", "NOTICE"],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as training leaves it, as far as a card reads it."""
    (tmp_path / "eval" / "ppo").mkdir(parents=True)
    (tmp_path / "ppo").mkdir()
    report = {"base": {**SUMMARY, "right": 1}, "ppo": SUMMARY}
    (tmp_path / "eval" / "report.json").write_text(json.dumps(report))
    questions = ["What is scurvy?", "什么是坏血病？"]
    jsonl.write(tmp_path / "eval" / "heldout.ppo.jsonl", [{"id": q, "question": q} for q in questions])
    found = {"title": "MedQA", "accuracy": 0.6, "low": 0.5, "high": 0.7, "questions": 100, "rule": "strict"}
    (tmp_path / "eval" / "ppo" / "report.json").write_text(json.dumps({"medqa": found}))
    acceptance = {"n": 414, "accuracy": SHARE, "false_positive_rate": SHARE, "recall": SHARE}
    (tmp_path / "verifier.json").write_text(json.dumps({"report": acceptance}))
    jsonl.write(tmp_path / "ppo" / "metrics.jsonl", [{"update": i, "score/mean": i / 10} for i in range(1, 4)])
    return tmp_path


def card(run: Path, recipe: str = "llama8b", figures: dict[str, Any] = MERGED, **change: Any) -> tuple[ModelCard, str]:
    tree = recipes.load(recipe).model_dump()
    tree["verifier"]["store"] = "/home/someone/secret/place/requests.sqlite"
    tree["adapter"]["rank"] = change.pop("rank", tree["adapter"]["rank"])
    facts = card_facts.read(run, tree, "ppo")
    base = change.pop("base", tree["base"]["model"])
    arguments = {"on_hub": True, "counts": {"SFT examples": 19704}, "repo": "me/Llama-o1", "gguf": None, **change}
    text = model_card.render(facts, figures, base=base, **arguments)
    return ModelCard(text), text


def test_the_hub_reads_its_metadata(run: Path) -> None:
    data = card(run)[0].data
    assert data.license == "llama3.1"
    assert data.base_model == "meta-llama/Llama-3.1-8B-Instruct"
    assert (data.pipeline_tag, data.language) == ("text-generation", ["en", "zh"])
    assert data.to_dict()["library_name"] == "transformers"
    assert data.to_dict()["base_model_relation"] == "finetune"
    values = {(result.dataset_type, result.metric_type): result.metric_value for result in data.eval_results}
    assert values == {("heldout", "accuracy"): 0.5, ("heldout", "form"): 0.9, ("medqa", "accuracy"): 0.6}


def test_people_read_what_it_is_worth(run: Path) -> None:
    text = card(run)[1]
    for part in (
        "Not for clinical use",
        "**Built with Llama**",
        "## Final Response",
        "| SFT + PPO | 0.50 (8/16) | 18/20 | 0.500 | 100 tokens |",
        "| MedQA | 0.600 | 0.500 to 0.700 | 100 | strict |",
        "lite-huatuo eval RUN --benchmark medqa",
        "19704 SFT examples",
        "suite of 414 cases: accuracy 0.980 [0.950, 0.990]",
        "KL 1.0e-04",
        "vllm serve me/Llama-o1",
        "sglang.launch_server --model-path me/Llama-o1",
        "![training curves](curves.svg)",
        "Part of this model: LICENSE, NOTICE.",
    ):
        assert part in text, part
    recipe = yaml.safe_load(text.rpartition("```yaml\n")[2].partition("```")[0])
    assert recipe["name"] == "llama8b"
    assert "/home/someone" not in text, "no path of this machine"


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    shown, text = card(tmp_path, base="/home/someone/models/mine", on_hub=False, repo=None, counts={})
    assert shown.data.eval_results is None
    assert shown.data.license is None
    assert shown.data.base_model is None
    assert "Not evaluated." in text
    assert "terms of mine hold for this model; they were not known" in text
    assert "curves.svg" not in text


def test_an_adapters_card_loads_with_peft_and_tells_what_vllm_wants(run: Path) -> None:
    figures = {"onto": "adapter", "tensors": 4, "vllm": []}
    shown, text = card(run, figures=figures)
    assert shown.data.to_dict()["library_name"] == "peft"
    assert "--lora-modules student=me/Llama-o1" in text
    text = card(run, figures={**figures, "vllm": ["DoRA is not supported"]})[1]
    assert "vllm serve" not in text
    assert "DoRA is not supported" in text


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (16, 16), (48, 64), (65, 128), (300, 320), (512, 512)])
def test_vllm_is_given_a_rank_that_it_takes(run: Path, rank: int, room: int) -> None:
    text = card(run, figures={"onto": "adapter", "tensors": 4, "vllm": []}, rank=rank)[1]
    assert f"--max-lora-rank {room} " in text


def test_an_adapters_card_without_a_base_on_the_hub_says_what_must_be_named(run: Path) -> None:
    figures = {"onto": "adapter", "tensors": 4, "vllm": []}
    shown, text = card(run, figures=figures, base="mine", on_hub=False)
    assert shown.data.base_model is None
    assert "Its base has no id on the Hub: put the folder of the same weights where BASE stands." in text
    assert 'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("BASE"), "me/Llama-o1")' in text
    assert "vllm serve BASE --enable-lora" in text
    code = text.partition("```python\n")[2].partition("```")[0]
    ast.parse(code)
    assert "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n" in code


@pytest.mark.parametrize(
    ("base", "licence", "name", "said"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3.1", None, "Built with Llama"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama3.3", None, "Built with Llama"),
        ("Qwen/Qwen2.5-7B-Instruct", "apache-2.0", None, None),
        ("Qwen/Qwen2.5-72B-Instruct", "other", "qwen", "Built with Qwen"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0", None, None),
    ],
)
def test_licences_of_known_bases(base: str, licence: str, name: str | None, said: str | None) -> None:
    found = licences.of(base)
    assert found is not None
    assert (found.id, found.name, found.said) == (licence, name, said)
    assert (found.id == "other") == (found.link is not None)


def test_every_shipped_recipes_base_has_a_known_licence() -> None:
    for name in recipes.names():
        base = recipes.load(name).base
        assert licences.of(base.fallback or base.model) is not None, name


def test_the_recipe_may_name_a_licence_and_llama_keeps_its_notice() -> None:
    assert licences.of("me/own", "mit") == licences.Licence("mit")
    assert licences.of("me/own") is None
    own = licences.of("meta-llama/Llama-3.1-8B", "cc-by-4.0")
    assert own is not None
    assert own.notice is not None
    assert "begin with Llama" in (licences.name_hint(own, "me/doctor") or "")
    assert licences.name_hint(own, "me/Llama-doctor") is None


def test_the_picture_is_well_formed_and_has_every_curve() -> None:
    long = [(float(i), i * 0.001) for i in range(5000)]
    text = curves.picture({"sft/loss": long, "flat <&>": [(0.0, 2.0), (1.0, 2.0)], "one point": [(3.0, 1.0)]})
    root = ElementTree.fromstring(text)
    lines = root.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 3
    for line in lines:
        points = [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
        assert 1 <= len(points) <= curves.POINTS
        assert all(0 <= x <= curves.WIDTH and 0 <= y <= curves.HEIGHT for x, y in points)
    assert "flat &lt;&amp;&gt;" in text
