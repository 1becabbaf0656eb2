"""The toy task: what a user comes for, in under a minute."""

from __future__ import annotations

from lite_huatuo import jsonl
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training.heldout import read_report
from lite_huatuo.training.metrics import METRICS


def test_sft_teaches_the_form_and_ppo_raises_the_score(toy_run: RunDir) -> None:
    report = read_report(toy_run.path / "eval")
    assert report["base"]["well_formed"] == 0
    assert report["sft"]["well_formed"] >= 0.9 * report["sft"]["problems"]
    assert report["sft"]["score"] <= 0.5
    assert report["ppo"]["score"] >= 0.9


def test_the_run_folder_holds_what_it_promises(toy_run: RunDir) -> None:
    for name in (
        "recipe.yaml",
        "environment.json",
        "events.jsonl",
        "sft/metrics.jsonl",
        "sft/final/actor/adapter_config.json",
        "ppo/metrics.jsonl",
        "ppo/samples.jsonl",
        "ppo/final/value_head.safetensors",
        "eval/report.json",
        *(f"ppo/final/{adapter}/adapter_model.safetensors" for adapter in ("actor", "critic", "reference")),
    ):
        assert (toy_run.path / name).is_file(), name
    assert not list(toy_run.path.rglob("*.tmp")), "temporary files left"
    assert not list(toy_run.path.rglob(".tmp-*")), "temporary folders left"


def test_every_metric_is_defined_and_every_update_logged(toy_run: RunDir) -> None:
    logged = [row for _, row in jsonl.iter_rows(toy_run.path / "ppo" / "metrics.jsonl")]
    assert [row["update"] for row in logged] == list(range(51)), "0 is the SFT policy"
    sft = [row for _, row in jsonl.iter_rows(toy_run.path / "sft" / "metrics.jsonl")]
    names = {name for row in [*logged, *sft] for name in row if "/" in name}
    with_second_verifier = {"watch/gap", "watch/second_right_share"}
    assert names == set(METRICS) - with_second_verifier, (
        "a metric is logged without definition, or defined and never logged"
    )


def test_the_first_rollout_is_the_reference_itself(toy_run: RunDir) -> None:
    first = next(row for _, row in jsonl.iter_rows(toy_run.path / "ppo" / "metrics.jsonl") if row["update"] == 1)
    kl = first["reference/kl_per_token"]  # one was sampled token by token, the other reads the reply at once
    assert abs(kl) < 1e-6, "a fresh actor's KL to the reference is 0"
    assert first["value/mean"] == 0.0, "a fresh critic predicts 0"


def test_the_reference_has_not_moved_by_a_bit(toy_run: RunDir) -> None:
    start = (toy_run.final("sft") / "adapter_model.safetensors").read_bytes()
    assert (toy_run.final("ppo", "reference") / "adapter_model.safetensors").read_bytes() == start
    assert (toy_run.final("ppo", "actor") / "adapter_model.safetensors").read_bytes() != start
    assert (toy_run.final("ppo", "critic") / "adapter_model.safetensors").read_bytes() != start


def test_the_sft_adapter_loads_in_plain_peft(toy_run: RunDir, toy: dict[str, str]) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(toy["model"], dtype=torch.float32)
    ids = torch.tensor([[2, 60, 70, 80]])
    before = base(ids).logits
    model = PeftModel.from_pretrained(base, toy_run.final("sft"))
    assert not torch.allclose(model(ids).logits, before), "the adapter changes nothing"
