"""Who judges in a rehearsal: the recipe's verifier, or a stand-in of the same kind where the real one would have to be
downloaded, was made for the real base, or costs money."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lite_huatuo.recipe import Recipe

UNTRAINED = {"classifier", "adapter"}  # kinds whose stand-in judges at random: the bar before stage 2 is 0 for them


def stand_in(recipe: Recipe, twin: Path | None, folder: Path, notes: list[str]) -> dict[str, Any]:
    """Return the verifier section of a rehearsal, its models made in `folder` if there is a twin to make them from; say
    in `notes` what stands in."""
    section = _one(recipe.verifier.model_dump(), recipe, twin, folder, notes)
    if _kinds(section) & UNTRAINED:
        section["accept_at"] = 0.0
    return section


def _one(section: dict[str, Any], recipe: Recipe, twin: Path | None, folder: Path, notes: list[str]) -> dict[str, Any]:
    kind = section["kind"]
    if kind == "api":
        notes.append(f"verifier: exact for the endpoint {section['profile']}")
        return {"kind": "exact", "least_judged_share": section["least_judged_share"]}
    if kind == "classifier":
        notes.append(f"verifier: an untrained small classifier for {section['model']}")
        return {**section, "model": str(_classifier(twin, folder / "classifier")), "revision": None, "label": 1}
    if kind == "adapter":
        notes.append(f"verifier: an untrained adapter on the twin for {section['adapter']}")
        return {**section, "adapter": str(_adapter(recipe, twin, folder / "judge"))}
    members = [_one(member, recipe, twin, folder, notes) for member in section.get("members") or ()]
    return {**section, "members": members}


def _kinds(section: Mapping[str, Any]) -> set[str]:
    return {section["kind"]}.union(*(_kinds(member) for member in section.get("members") or ()))


def _classifier(twin: Path | None, folder: Path) -> Path:
    """Make a classifier with two labels on a network of the twin's form; return its folder."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    if twin is not None and not folder.is_dir():
        config = AutoConfig.from_pretrained(twin, trust_remote_code=False)
        config.num_labels = 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(twin, trust_remote_code=False).save_pretrained(folder)
    return folder


def _adapter(recipe: Recipe, twin: Path | None, folder: Path) -> Path:
    """Make a judging adapter on the twin; return its folder."""
    from lite_huatuo.models import backends
    from lite_huatuo.models.shared_base import SharedBase
    from lite_huatuo.models.value_head import ValueHead
    from lite_huatuo.verifier.adapter import AdapterVerifier, Settings
    from lite_huatuo.verifier.choose import ADAPTER

    if twin is not None and not folder.is_dir():
        base = recipe.base
        loaded = backends.load(
            str(twin), quantization=base.quantization, double_quantization=base.double_quantization, backend="plain"
        )
        shared = SharedBase.fresh(loaded, ADAPTER, rank=recipe.adapter.rank, alpha=recipe.adapter.alpha,
                                  targets=recipe.adapter.targets)  # fmt: skip
        head = ValueHead(shared.hidden_size).to(shared.device)
        AdapterVerifier(shared, ADAPTER, Settings(), head, threshold=0.5).save(folder)
    return folder
