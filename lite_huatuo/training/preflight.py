"""What can be checked before a run folder is made: data, verifier, base, trackers. No model is loaded."""

from __future__ import annotations

from lite_huatuo.models import backends, gguf
from lite_huatuo.recipe import Recipe
from lite_huatuo.training import inputs, trackers
from lite_huatuo.training.inputs import Inputs
from lite_huatuo.verifier import choose


def check(recipe: Recipe) -> Inputs:
    """Raise for the first thing that would stop the run; return what was read."""
    trackers.check(recipe.report_to)
    backends.choose(recipe.base.backend)
    choose.check(recipe.verifier.model_dump())
    data = inputs.read(**recipe.input_arguments())
    gguf.resolve(recipe.base.model, recipe.base.fallback)
    return data
