"""What is checked before training: before a run folder is made, data, base, trackers, without loading a model; before
PPO, whether its verifier can be trusted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl, manifest
from lite_huatuo.data import profile
from lite_huatuo.errors import BackendError, CheckpointError
from lite_huatuo.models import backends, gguf
from lite_huatuo.processes import ALONE, Processes
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import inputs, trackers, vllm_engine
from lite_huatuo.training.inputs import Inputs
from lite_huatuo.verifier import acceptance, choose, suite
from lite_huatuo.verifier.base import Verifier

ACCEPTANCE = "verifier.json"  # in the run folder
IDENTITY = "ppo/verifier-identity.json"
# Of a judge's profile, what its verdicts depend on; not what it costs, how fast it may be asked, whose key it is.
SHAPES = (
    "model", "base_url", "json_schema", "temperature", "default_temperature", "seed", "reasoning_effort",
    "reasoning_tokens", "extra",
)  # fmt: skip


def check(recipe: Recipe, stage: str | None = None) -> Inputs:
    """Raise for the first thing that would stop the run, or a stage of it; return what was read."""
    trackers.check(recipe.report_to)
    backends.choose(recipe.base.backend)
    if recipe.ppo.rollout.engine == "vllm" and stage != "sft":
        vllm_engine.check(recipe.base.quantization, dora=recipe.adapter.dora)
    choose.check(recipe.verifier.model_dump())
    data = inputs.read(**recipe.input_arguments())
    gguf.resolve(recipe.base.model, recipe.base.fallback)
    return data


def identity(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells the verifier of a recipe's section from another behind the same words: what the profile says
    today, digests of the files of an adapter or of a classifier in a folder."""
    found: dict[str, Any] = {"kind": section["kind"]}
    if section["kind"] == "api":
        shapes = profile.load(section["profile"]).model_dump()
        found.update({name: shapes[name] for name in SHAPES})
    elif section["kind"] in ("adapter", "classifier"):
        name = section["adapter" if section["kind"] == "adapter" else "model"]
        folder = Path(os.path.expanduser(name))
        found["files"] = {
            str(path.relative_to(folder)): manifest.digest(path)
            for path in folder.rglob("*")  # of nothing, where it is one from the Hub
            if path.suffix in (".safetensors", ".json")
        }
    members = section.get("members") or ()
    return {**found, **{f"member {n}": identity(member) for n, member in enumerate(members, start=1)}}


def same_verifier(recipe: Recipe, run: RunDir, *, anyway: bool, processes: Processes = ALONE) -> None:
    """Keep what the verifier is. CheckpointError where it was another one before, unless it is to be taken `anyway`:
    then it will be measured again."""

    def compare() -> None:
        found = {"verifier": identity(recipe.verifier.model_dump())}
        try:
            run.remember(IDENTITY, found)
        except CheckpointError as error:
            if not anyway:
                raise CheckpointError(f"{error}, or take the verifier as it is with --accept-verifier") from None
            run.event("another verifier", text=str(error))
            for name in (ACCEPTANCE, IDENTITY):
                (run.path / name).unlink(missing_ok=True)
            run.remember(IDENTITY, found)

    processes.once(compare)


def accept_verifier(
    recipe: Recipe, run: RunDir, verifier: Verifier, *, anyway: bool, processes: Processes = ALONE
) -> None:
    """Measure the verifier on the shipped suite, once a run, and keep the report in the run folder.

    One below the recipe's bar is refused (BackendError) unless it is to be taken `anyway`.
    """
    path = run.path / ACCEPTANCE
    if processes.once(lambda: _is_measured(run)):
        return
    report = acceptance.report(acceptance.judge(verifier, suite.load()))
    section = recipe.verifier
    reason = acceptance.refusal(report, accept_at=section.accept_at, least_judged_share=section.least_judged_share)
    if reason and not anyway:
        raise BackendError(
            f"the verifier {verifier.name} is not accepted: on the shipped suite {reason}. See `lite-huatuo verifier "
            "check`; take another one, or this one with --accept-verifier"
        )
    found = {"verifier": verifier.name, "below_the_bar": reason, "report": report}
    if processes.main:
        jsonl.write_text(path, json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def _is_measured(run: RunDir) -> bool:
    """Whether the run holds a whole report on its verifier; of a damaged one its events tell."""
    try:
        found = run.facts(ACCEPTANCE)
    except CheckpointError as error:
        run.event("damaged report", text=str(error))
        return False
    return isinstance(found.get("report"), dict)
