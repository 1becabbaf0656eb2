"""What is checked before training: before a run folder is made, data, base, trackers, without loading a model; before
PPO, whether its verifier can be trusted."""

from __future__ import annotations

import json

from lite_huatuo import jsonl
from lite_huatuo.errors import BackendError
from lite_huatuo.models import backends, gguf
from lite_huatuo.processes import ALONE, Processes
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import inputs, trackers, vllm_engine
from lite_huatuo.training.inputs import Inputs
from lite_huatuo.verifier import acceptance, choose, suite
from lite_huatuo.verifier.base import Verifier

ACCEPTANCE = "verifier.json"  # in the run folder


def check(recipe: Recipe, stage: str | None = None) -> Inputs:
    """Raise for the first thing that would stop the run, or a stage of it; return what was read."""
    trackers.check(recipe.report_to)
    backends.choose(recipe.base.backend)
    if recipe.ppo.rollout.engine == "vllm" and stage != "sft":
        vllm_engine.check()
    choose.check(recipe.verifier.model_dump())
    data = inputs.read(**recipe.input_arguments())
    gguf.resolve(recipe.base.model, recipe.base.fallback)
    return data


def accept_verifier(
    recipe: Recipe, run: RunDir, verifier: Verifier, *, anyway: bool, processes: Processes = ALONE
) -> None:
    """Measure the verifier on the shipped suite, once a run, and keep the report in the run folder.

    One below the recipe's bar is refused (BackendError) unless it is to be taken `anyway`.
    """
    path = run.path / ACCEPTANCE
    if processes.once(path.exists):
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
