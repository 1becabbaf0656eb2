"""The learning half of a PPO update: epochs of minibatches of microbatches over one rollout."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.models.value_head import ValueHead
from lite_huatuo.processes import ALONE, Processes
from lite_huatuo.training import finite, ppo_math
from lite_huatuo.training.logprobs import microbatches
from lite_huatuo.training.rollout import Rollout, pack, reply_logprobs, reply_values

POLICY_FIGURES = ("policy/loss", "policy/clip_share", "policy/approx_kl")


@dataclass(frozen=True)
class Coefficients:
    """The numbers of the loss; DESIGN names, see recipe.PPO for what others call them."""

    temperature: float
    clip_range: float
    value_clip_range: float
    value_coef: float
    entropy_coef: float
    max_grad_norm: float
    microbatch_tokens: int
    trunk_layers: int | None = None  # the critic's own layers where it stands on the reference's trunk


def learning_rate_factor(schedule: str, step: int, total: int, warmup_ratio: float) -> float:
    """Return the factor on the learning rate of step `step` (0-based) of `total`: warm-up, then the schedule."""
    warmup = math.ceil(warmup_ratio * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = 1 - (step - warmup) / max(1, total - warmup)
    return {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 + math.cos(math.pi * (1 - left)))}[schedule]


class Learner:
    """Actor and critic on the shared base, with their optimisers."""

    def __init__(
        self,
        shared: SharedBase,
        head: ValueHead,
        coefficients: Coefficients,
        *,
        optimizer: str,
        learning_rate: float,
        critic_learning_rate: float,
        value_head_learning_rate: float,
        weight_decay: float,
        processes: Processes = ALONE,
    ) -> None:
        self.shared, self.head, self.coefficients, self.processes = shared, head, coefficients, processes
        actor = [{"params": list(shared.parameters("actor").values()), "lr": learning_rate}]
        critic = [
            {
                "params": list(shared.parameters("critic", top=coefficients.trunk_layers).values()),
                "lr": critic_learning_rate,
            },
            {"params": list(head.parameters()), "lr": value_head_learning_rate},
        ]
        make = _optimizer(optimizer)
        self.optimizers = {
            "actor": make(actor, weight_decay=weight_decay),
            "critic": make(critic, weight_decay=weight_decay),
        }
        self._peak = {name: [group["lr"] for group in opt.param_groups] for name, opt in self.optimizers.items()}

    def set_learning_rate(self, factor: float) -> None:
        """Set every learning rate to its peak times `factor`."""
        for name, optimizer in self.optimizers.items():
            for group, peak in zip(optimizer.param_groups, self._peak[name], strict=True):
                group["lr"] = peak * factor

    def learn(
        self,
        rollout: Rollout,
        advantages: Tensor,
        returns: Tensor,
        *,
        epochs: int,
        minibatches: int,
        target_kl: float | None,
        train_actor: bool,
        factors: Sequence[float],
    ) -> dict[str, float]:
        """Take epochs * minibatches optimizer steps, fewer if `target_kl` stops them; return mean figures.

        advantages and returns are (B, R). `factors` holds each step's learning rate factor. WatchStop where the
        rollout holds numbers that are not finite, or where every step had to be left out.
        """
        finite.refuse(
            {
                "log-probabilities": rollout.logprobs,
                "reference's log-probabilities": rollout.reference,
                "importance weights": rollout.weights,
                "values": rollout.values,
                "advantages": advantages,
                "returns": returns,
            },
            rollout.reply_mask,
        )
        seen: dict[str, list[float]] = defaultdict(list)
        done, step, skipped, kl = 0, 0, 0, 0.0
        for _ in range(epochs):
            kls = []
            for members in torch.randperm(len(rollout.episodes)).chunk(minibatches):
                self.set_learning_rate(factors[step])
                figures = self.step(rollout, advantages, returns, members.tolist(), train_actor=train_actor)
                skipped += not figures
                kls.append(figures.pop("policy/approx_kl", 0.0))
                for name, value in figures.items():
                    seen[name].append(value)
                step += 1
            done, kl = done + 1, sum(kls) / len(kls)
            if target_kl is not None and kl > target_kl:
                break
        if skipped == step:
            raise finite.no_step_taken(step)
        means: dict[str, float] = {name: sum(values) / len(values) for name, values in seen.items()}
        learning_rate = self.optimizers["actor"].param_groups[0]["lr"] if train_actor else 0.0
        with self.shared.using("critic", learn=True):
            means["learn/recomputed_layers"] = self.shared.recomputed_layers
        means.update({"learn/skipped_steps": skipped, "policy/approx_kl": kl, "policy/epochs": done})
        return {**means, "policy/learning_rate": learning_rate}

    def step(
        self, rollout: Rollout, advantages: Tensor, returns: Tensor, members: list[int], *, train_actor: bool
    ) -> dict[str, float]:
        """One optimizer step of the critic and (unless the actor is frozen) of the actor on some episodes.

        Each process goes through its share of them; gradients and figures are summed over the processes. Where a figure
        or a gradient is not finite, neither takes the step, weights and moments stay as they are, and {} is returned.
        """
        figures = self._backward(rollout, advantages, returns, members, train_actor=train_actor)
        figures = self.processes.add(figures)
        learners = ("actor", "critic") if train_actor else ("critic",)
        for name in learners:
            parameters = self._parameters(name)
            self.processes.add_gradients(parameters)
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.coefficients.max_grad_norm)
            figures[f"{'policy' if name == 'actor' else 'value'}/gradient_norm"] = norm.item()
        sound = finite.all_finite(figures.values())
        for name in learners:
            if sound:
                self.optimizers[name].step()
            self.optimizers[name].zero_grad(set_to_none=True)
        return figures if sound else {}

    def _backward(
        self, rollout: Rollout, advantages: Tensor, returns: Tensor, members: list[int], *, train_actor: bool
    ) -> dict[str, float]:
        """Accumulate the minibatch's gradients by microbatches; each backward inside its adapter's context.

        What goes backward is the sum over tokens, and the gradient is divided: a loss over 100,000 tokens is too small
        for float16.
        """
        c, shared = self.coefficients, self.shared
        tokens = int(rollout.reply_mask[members].sum())
        names = ["value/loss", "value/clip_share", *(POLICY_FIGURES if train_actor else ())]
        figures = dict.fromkeys(names, 0.0)
        mine = self._share(rollout, members)
        groups = microbatches(
            [rollout.episodes[i].length for i in mine], budget=c.microbatch_tokens, padded=not shared.packs
        )
        for group in shared.in_step(groups):
            if group is None:
                self._idle(train_actor=train_actor)
                continue
            rows = [mine[j] for j in group]
            batch = pack(shared, [rollout.episodes[i] for i in rows], rollout.reply_mask.shape[1])
            mask = batch.reply_mask
            old, adv, weights, values_old, target = (
                x[rows].to(shared.device)
                for x in (rollout.logprobs, advantages, rollout.weights, rollout.values, returns)
            )
            if train_actor:
                with shared.using("actor", learn=True):
                    logprobs, spread = reply_logprobs(shared, batch, temperature=c.temperature)
                    policy = ppo_math.policy_loss(
                        logprobs, old, adv, mask, clip_range=c.clip_range, tokens=tokens, weights=weights
                    )
                    bonus = c.entropy_coef * ppo_math.masked_sum(spread, mask) / tokens
                    ((policy.loss - bonus) * tokens).backward()
                figures["policy/loss"] += policy.loss.item()
                figures["policy/clip_share"] += policy.clipped.item() / tokens
                figures["policy/approx_kl"] += policy.kl.item() / tokens
            with shared.using("critic", learn=True):
                held = [piece for i in rows if rollout.trunk and (piece := rollout.trunk[i]) is not None]
                trunk = torch.cat(held).to(shared.device) if held else None
                values = reply_values(shared, self.head, batch, trunk, c.trunk_layers)
                value = ppo_math.value_loss(
                    values, values_old, target, mask, value_clip_range=c.value_clip_range, tokens=tokens
                )
                (c.value_coef * value.loss * tokens).backward()
            figures["value/loss"] += value.loss.item()
            figures["value/clip_share"] += value.clipped.item() / tokens
        for name in ("actor", "critic") if train_actor else ("critic",):
            divide_gradients(self._parameters(name), tokens)
        return figures

    def _parameters(self, name: str) -> list[torch.nn.Parameter]:
        """Return what the optimizer of actor or critic learns."""
        return [p for group in self.optimizers[name].param_groups for p in group["params"]]

    def _share(self, rollout: Rollout, members: list[int]) -> list[int]:
        """Return this process's share of a minibatch: about as many tokens as the others', or with a trunk, which
        stays where it was computed, the episodes that this process sampled."""
        if self.processes.count == 1:
            return members
        if rollout.trunk:
            return [i for i in members if rollout.trunk[i] is not None]
        lengths = [rollout.episodes[i].length for i in members]
        return [members[j] for j in balanced(lengths, self.processes.count)[self.processes.rank]]

    def _idle(self, *, train_actor: bool) -> None:
        """Make the passes of a microbatch without one, for processes that have more of them."""
        for name in ("actor", "critic") if train_actor else ("critic",):
            with self.shared.using(name, learn=True):
                self.shared.idle(learn=True)


def balanced(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Deal rows out to `count` processes, the longest first, each to who has the fewest tokens; return the indices."""
    parts: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        least = loads.index(min(loads))
        parts[least].append(index)
        loads[least] += lengths[index]
    return [sorted(part) for part in parts]


def divide_gradients(parameters: Iterable[torch.nn.Parameter], by: int) -> None:
    """Divide the gradients that there are, in place."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.div_(by)


def _optimizer(name: str) -> Any:
    """Return the optimizer class of a recipe's `optimizer`."""
    if name == "adamw":
        return torch.optim.AdamW
    from bitsandbytes.optim import PagedAdamW8bit

    return PagedAdamW8bit
