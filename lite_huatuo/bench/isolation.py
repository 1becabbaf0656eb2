"""Whose weights change: the critic's warm-up moves the critic alone, learning moves actor and critic, nothing else."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from lite_huatuo.bench import assembled, learning
from lite_huatuo.bench.place import Place
from lite_huatuo.models.shared_base import SharedBase

AS_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
ROLES = ("reference", "actor", "critic")


def run(place: Place) -> dict[str, Any]:
    """Learn on two short episodes and compare digests of base and adapters."""
    stage = assembled.stage(place)
    data = learning.score(stage, 2, 20, 12)
    assembled.learn(stage, data, actor=False)  # a head that is zero gives its adapter no gradient; the next one does
    digests = [_digests(stage.shared)]
    for actor in (False, True):
        assembled.learn(stage, data, actor=actor)
        digests.append(_digests(stage.shared))
    warm, both = ([name for name in a if a[name] != b[name]] for a, b in itertools.pairwise(digests))
    left = sum(parameter.grad is not None for parameter in stage.shared.peft.parameters())
    return {
        "moved_by_the_critics_step": warm,
        "moved_by_a_step_of_both": both,
        "gradients_left": left,
        "holds": {
            "the critic's step moves the critic alone": warm == ["critic"],
            "a step of both moves actor and critic alone": both == ["actor", "critic"],
            "no gradient is left": left == 0,
        },
    }


def _digests(shared: SharedBase) -> dict[str, int]:
    """Return a number for the frozen base and one for every adapter: the sum of all bits, read as integers."""
    found = dict.fromkeys(("base", *ROLES), 0)
    for name, parameter in shared.peft.named_parameters():
        role = next((role for role in ROLES if f".{role}." in f"{name}."), "base")
        data = parameter.data.contiguous()
        found[role] += int(data.view(AS_INTEGERS[data.element_size()]).sum(dtype=torch.int64))
    return found
