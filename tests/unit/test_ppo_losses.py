"""PPO's two losses on numbers worked out by hand, and against loops written from the paper's formulas.

Shared with TRL's PPO trainer: the clipped surrogate as a maximum of two losses, 0.5 * max of two squared errors for the
values. Different here: losses divide by the tokens of the minibatch (TRL: of each microbatch).
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lite_huatuo.training import ppo_math

NAN = float("nan")
GARBAGE = [0.0, 1e6, -1e30, NAN, float("inf"), float("-inf")]


def full(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.bool)


def close(found: Tensor, expected: object, **tolerance: float) -> None:
    assert found.dtype == torch.float32
    tolerance = tolerance or {"rtol": 1e-5, "atol": 1e-6}
    assert_close(found.detach(), torch.as_tensor(expected, dtype=torch.float32), **tolerance)


def ragged(seed: int, episodes: int = 6, width: int = 9) -> tuple[list[int], Tensor]:
    """Return random lengths, among them 1 and the full width, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [1, width, *torch.randint(1, width + 1, (episodes - 2,), generator=generator).tolist()]
    return lengths, torch.arange(width) < torch.tensor(lengths).unsqueeze(1)


def noise(mask: Tensor, seed: int, scale: float = 1.0, padding: float = NAN) -> Tensor:
    """Return random numbers at real tokens and `padding` elsewhere."""
    numbers = scale * torch.randn(mask.shape, generator=torch.Generator().manual_seed(seed))
    return numbers.masked_fill(~mask, padding)


# policy_loss


def test_at_ratio_1_nothing_is_clipped_and_the_loss_is_minus_the_mean_advantage() -> None:
    _, mask = ragged(3)
    old, advantages = noise(mask, 1), noise(mask, 2)
    found = ppo_math.policy_loss(old.clone(), old, advantages, mask, clip_range=0.2, tokens=int(mask.sum()))
    close(found.loss, -advantages[mask].mean())
    assert (found.clipped.item(), found.kl.item()) == (0.0, 0.0)


def test_the_clipped_surrogate_by_hand() -> None:
    # clip 0.2; four tokens (ratio, advantage):
    # 1.5, +2: min(3, 1.2 * 2 = 2.4)     =  2.4  clipped, no gradient
    # 1.5, -2: min(-3, -2.4)             = -3.0  d(-surrogate)/d logprob = 2 * 1.5  = 3
    # 0.5, +2: min(1, 0.8 * 2 = 1.6)     =  1.0  d(-surrogate)/d logprob = -2 * 0.5 = -1
    # 0.5, -2: min(-1, -1.6)             = -1.6  clipped, no gradient
    # loss = -(2.4 - 3 + 1 - 1.6) / 4 = 0.3; gradient / 4: 0, 0.75, -0.25, 0
    # kl: twice 1.5 - 1 - ln 1.5 = 0.09453489 and twice 0.5 - 1 - ln 0.5 = 0.19314718
    old = torch.tensor([[-3.0, -1.0, -2.0, -0.8]])
    logprobs = (old + torch.tensor([[1.5, 1.5, 0.5, 0.5]]).log()).requires_grad_()
    advantages = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    found = ppo_math.policy_loss(logprobs, old, advantages, full(1, 4), clip_range=0.2, tokens=4)
    found.loss.backward()
    close(found.loss, 0.3)
    close(found.clipped, 2.0)
    close(found.kl, 0.57536414)
    close(logprobs.grad, [[0.0, 0.75, -0.25, 0.0]])
    assert not found.clipped.requires_grad
    assert not found.kl.requires_grad


@pytest.mark.parametrize("seed", range(5))
def test_the_policy_loss_equals_the_papers_formula_on_ragged_replies(seed: int) -> None:
    lengths, mask = ragged(seed)
    old = noise(mask, seed)
    logprobs, advantages = old + noise(mask, seed + 50, scale=0.4), noise(mask, seed + 99)
    total, clipped = 0.0, 0
    for b, length in enumerate(lengths):  # equation 7 of arXiv 1707.06347, token by token
        for t in range(length):
            ratio = math.exp(logprobs[b, t].double() - old[b, t].double())
            plain = ratio * advantages[b, t].item()
            bounded = min(max(ratio, 0.8), 1.2) * advantages[b, t].item()
            total -= min(plain, bounded)
            clipped += bounded < plain
    found = ppo_math.policy_loss(logprobs, old, advantages, mask, clip_range=0.2, tokens=sum(lengths))
    assert found.loss.item() == pytest.approx(total / sum(lengths), abs=1e-5)
    assert found.clipped.item() == clipped > 0


# value_loss


def test_the_clipped_value_loss_by_hand() -> None:
    # range 0.2; three tokens (V, old, G):
    # 1.0, 0.5, 2: clipped to 0.7; max(1, 1.69)   = 1.69  clipped, no gradient
    # 1.0, 0.5, 0: clipped to 0.7; max(1, 0.49)   = 1.0   gradient V - G = 1
    # 0.6, 0.5, 0: inside the range; both are 0.36        gradient V - G = 0.6
    # loss = 0.5 * 3.05 / 3 = 0.50833333; gradient / 3: 0, 0.33333333, 0.2
    values = torch.tensor([[1.0, 1.0, 0.6]], requires_grad=True)
    found = ppo_math.value_loss(
        values, torch.full((1, 3), 0.5), torch.tensor([[2.0, 0.0, 0.0]]), full(1, 3), value_clip_range=0.2, tokens=3
    )
    found.loss.backward()
    close(found.loss, 0.50833333)
    close(found.clipped, 1.0)
    close(values.grad, [[0.0, 0.33333333, 0.2]])
    assert not found.clipped.requires_grad


def test_unclipped_values_cost_half_the_mean_squared_error() -> None:
    # errors 1 and -3: 0.5 * (1 + 9) / 2 = 2.5
    old, returns = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 4.0]])
    found = ppo_math.value_loss(old.clone(), old, returns, full(1, 2), value_clip_range=0.2, tokens=2)
    close(found.loss, 2.5)
    assert found.clipped.item() == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_value_loss_equals_the_formula_on_ragged_replies(seed: int) -> None:
    lengths, mask = ragged(seed)
    old, returns = noise(mask, seed), noise(mask, seed + 50)
    values = old + noise(mask, seed + 99, scale=0.4)
    total, clipped = 0.0, 0
    for b, length in enumerate(lengths):
        for t in range(length):
            v, o, g = (x[b, t].double().item() for x in (values, old, returns))
            errors = (v - g) ** 2, (min(max(v, o - 0.2), o + 0.2) - g) ** 2
            total += 0.5 * max(errors)
            clipped += errors[1] > errors[0]
    found = ppo_math.value_loss(values, old, returns, mask, value_clip_range=0.2, tokens=sum(lengths))
    assert found.loss.item() == pytest.approx(total / sum(lengths), abs=1e-5)
    assert found.clipped.item() == clipped > 0


# what holds for both losses


def both_losses(new: Tensor, old: Tensor, target: Tensor, mask: Tensor, tokens: int) -> dict[str, Tensor]:
    policy = ppo_math.policy_loss(new, old, target, mask, clip_range=0.2, tokens=tokens)
    value = ppo_math.value_loss(new, old, target, mask, value_clip_range=0.2, tokens=tokens)
    return {
        "policy": policy.loss,
        "policy clipped": policy.clipped,
        "kl": policy.kl,
        "value": value.loss,
        "value clipped": value.clipped,
    }


def figures(new: Tensor, old: Tensor, target: Tensor, mask: Tensor, groups: list[list[int]]) -> dict[str, Tensor]:
    """Return losses, counts and the gradient, summed over microbatches that divide by the whole's tokens."""
    new = new.clone().requires_grad_()
    sums: dict[str, Tensor] = {}
    for rows in groups:
        parts = both_losses(new[rows], old[rows], target[rows], mask[rows], int(mask.sum()))
        (parts["policy"] + parts["value"]).backward()
        sums = {name: part.detach() + sums.get(name, 0.0) for name, part in parts.items()}
    return {**sums, "gradient": new.grad}


@pytest.mark.parametrize("groups", [[[0], [1], [2], [3], [4], [5]], [[1, 4], [0, 2, 3, 5]], [[5, 3, 1], [4, 2, 0]]])
def test_microbatches_add_up_to_the_minibatch(groups: list[list[int]]) -> None:
    _, mask = ragged(4)
    old = noise(mask, 1)
    arguments = old + noise(mask, 2, scale=0.4), old, noise(mask, 3), mask
    whole, cut = figures(*arguments, [list(range(6))]), figures(*arguments, groups)
    for name, expected in whole.items():
        close(cut[name], expected)


@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_changes_neither_loss_nor_gradient(garbage: float) -> None:
    _, mask = ragged(5)
    old, new, target = noise(mask, 1), noise(mask, 2, scale=0.4), noise(mask, 3)
    expected, found = (
        figures(*(x.masked_fill(~mask, fill) for x in (new, old, target)), mask, [list(range(6))])
        for fill in (0.0, garbage)
    )
    for name in expected:
        assert_close(found[name], expected[name], rtol=0, atol=0)
    assert bool((found["gradient"][~mask] == 0).all())


# importance weights: a sampler that is not quite the actor


def test_importance_weights_by_hand() -> None:
    mask = torch.tensor([[True, True, False]])
    ours, theirs = torch.tensor([[-1.0, -1.0, 5.0]]), torch.tensor([[-1.0 - math.log(2), 0.0, -5.0]])
    found = ppo_math.importance_weights(ours, theirs, mask, cap=1.5)
    assert_close(found, torch.tensor([[1.5, math.exp(-1), 1.0]]))  # 2 is cut off at 1.5; masked: 1


def test_weights_make_up_for_a_perturbed_sampler() -> None:
    """Replies of one token, drawn from another distribution q than the actor's p, in exact proportion: with weights the
    gradient is the one under p, without them it is another."""
    counts = torch.tensor([50, 25, 12, 8, 5])  # of 100 episodes: q
    advantage = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])
    logits = torch.tensor([0.3, 0.1, -0.2, 0.9, -1.0], requires_grad=True)
    tokens = torch.repeat_interleave(torch.arange(5), counts)
    mask = torch.ones(100, 1, dtype=torch.bool)

    def gradient(weigh: bool) -> Tensor:
        logprobs = torch.log_softmax(logits, 0)[tokens][:, None]
        old, sampler = logprobs.detach(), torch.log(counts[tokens][:, None] / 100)
        weights = ppo_math.importance_weights(old, sampler, mask, cap=1e9) if weigh else None
        loss = ppo_math.policy_loss(
            logprobs, old, advantage[tokens][:, None], mask, clip_range=0.2, tokens=100, weights=weights
        )
        return torch.autograd.grad(loss.loss, logits)[0]

    p = torch.softmax(logits, 0)
    exact = torch.autograd.grad(-(p * advantage).sum(), logits)[0]  # -E_p[A grad log p]
    assert_close(gradient(True), exact, rtol=1e-4, atol=1e-6)
    assert (gradient(False) - exact).norm() > 0.2 * exact.norm()
