"""PPO's mathematics on numbers worked out by hand, and against loops written from the papers' formulas.

Shared with TRL's PPO trainer: k1 in the reward, the score added to a token's KL reward. Different here: the score lands
on the last real token (TRL: one place later where the reply is shorter than the batch), whitening divides by n (TRL:
n - 1). The losses are in test_ppo_losses.py.
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


# masked_sum, masked_mean, masked_whiten


@pytest.mark.parametrize("garbage", GARBAGE)
def test_masked_sum_and_mean_count_real_tokens_only(garbage: float) -> None:
    x, mask = torch.tensor([[1.0, 2.0, garbage], [6.0, garbage, garbage]]), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    close(ppo_math.masked_sum(x, mask), 9.0)
    close(ppo_math.masked_mean(x, mask), 3.0)


def test_the_mean_of_nothing_is_zero() -> None:
    close(ppo_math.masked_mean(torch.full((2, 3), NAN), ~full(2, 3)), 0.0)


@pytest.mark.parametrize("garbage", GARBAGE)
def test_whitening_by_hand(garbage: float) -> None:
    # real tokens 1, 3, 5: mean 3, variance (4 + 0 + 4) / 3 = 8/3, so 2 / sqrt(8/3) = sqrt(3/2) = 1.2247449
    x, mask = torch.tensor([[1.0, 3.0, garbage], [5.0, garbage, garbage]]), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    close(ppo_math.masked_whiten(x, mask), [[-1.2247449, 0.0, 0.0], [1.2247449, 0.0, 0.0]])


@pytest.mark.parametrize("seed", range(5))
def test_whitened_numbers_have_mean_0_and_variance_1_over_real_tokens(seed: int) -> None:
    _, mask = ragged(seed)
    white = ppo_math.masked_whiten(3.0 + noise(mask, seed, scale=0.01), mask)
    real = white[mask].double()
    assert abs(real.mean().item()) < 1e-4
    assert real.var(unbiased=False).item() == pytest.approx(1.0, abs=1e-3)
    assert bool((white[~mask] == 0).all())


def test_equal_advantages_are_whitened_to_zero() -> None:
    close(ppo_math.masked_whiten(torch.full((2, 3), 0.5), full(2, 3)), torch.zeros(2, 3))


# kl_k1, kl_k3


def test_kl_estimators_by_hand() -> None:
    policy, other = torch.tensor([[-1.0, -0.5, -2.0]]), torch.tensor([[-1.5, -0.2, -2.0]])
    close(ppo_math.kl_k1(policy, other), [[0.5, -0.3, 0.0]])
    # d = -0.5: e^-0.5 - 1 + 0.5 = 0.10653066;  d = 0.3: e^0.3 - 1 - 0.3 = 0.04985881
    close(ppo_math.kl_k3(policy, other), [[0.10653066, 0.04985881, 0.0]])


def test_both_estimators_have_the_kl_divergence_as_their_mean() -> None:
    policy, other = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
    # KL = 0.5 ln(0.5 / 0.9) + 0.5 ln(0.5 / 0.1) = 0.5 * (-0.58778666 + 1.60943791) = 0.51082562
    for estimator in (ppo_math.kl_k1, ppo_math.kl_k3):
        close((policy * estimator(policy.log(), other.log())).sum(), 0.51082562)


def test_k3_is_never_negative_and_exact_near_zero() -> None:
    d = torch.cat([torch.linspace(-5, 5, 101), torch.tensor([1e-4, -1e-4, 1e-6])])
    k3 = ppo_math.kl_k3(torch.zeros_like(d), d)
    assert bool((k3 >= -1e-9).all())
    close(k3[-3:], [0.5e-8, 0.5e-8, 0.5e-12], rtol=0.1, atol=1e-11)  # d^2 / 2


# shape_rewards


@pytest.mark.parametrize("garbage", GARBAGE)
def test_rewards_by_hand(garbage: float) -> None:
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    policy = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, garbage, garbage]])
    reference = torch.tensor([[-1.5, -2.0, -2.0], [-3.0, garbage, garbage]])
    # k1 = 0.5, 0, -1 | 2; times -0.1: -0.05, 0, 0.1 | -0.2; the scores 1.0 and 0.1 come to the last real tokens
    close(
        ppo_math.shape_rewards(torch.tensor([1.0, 0.1]), policy, reference, mask, kl_coef=0.1),
        [[-0.05, 0.0, 1.1], [-0.1, 0.0, 0.0]],
    )


@pytest.mark.parametrize("seed", range(3))
def test_rewards_sum_to_score_minus_kl_and_the_score_lands_once(seed: int) -> None:
    lengths, mask = ragged(seed)
    policy, reference, scores = noise(mask, seed), noise(mask, seed + 50), torch.rand(len(lengths))
    rewards = ppo_math.shape_rewards(scores, policy, reference, mask, kl_coef=0.03)
    for b, length in enumerate(lengths):
        kl = [policy[b, t].item() - reference[b, t].item() for t in range(length)]
        assert rewards[b].sum().item() == pytest.approx(scores[b].item() - 0.03 * sum(kl), abs=1e-5)
    without = ppo_math.shape_rewards(torch.zeros_like(scores), policy, reference, mask, kl_coef=0.03)
    places = (rewards != without).nonzero().tolist()
    assert places == [[b, length - 1] for b, length in enumerate(lengths)]


def test_an_actor_that_is_the_reference_pays_no_kl() -> None:
    _, mask = ragged(0)
    policy = noise(mask, 1)
    rewards = ppo_math.shape_rewards(torch.zeros(len(mask)), policy, policy.clone(), mask, kl_coef=0.5)
    assert bool((rewards == 0).all())


# gae


def test_three_tokens_of_gae_by_hand() -> None:
    # gamma 0.9, lambda 0.5, so gamma * lambda = 0.45
    # delta_2 = 1 + 0.9 * 0   - 0.8 = 0.2   A_2 = 0.2
    # delta_1 = 0 + 0.9 * 0.8 - 0.6 = 0.12  A_1 = 0.12 + 0.45 * 0.2  = 0.21
    # delta_0 = 0 + 0.9 * 0.6 - 0.5 = 0.04  A_0 = 0.04 + 0.45 * 0.21 = 0.1345
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.6, 0.8]])
    close(ppo_math.gae(rewards, values, full(1, 3), gamma=0.9, gae_lambda=0.5), [[0.1345, 0.21, 0.2]])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.5), (0.99, 0.0), (0.0, 0.7)])
def test_gae_equals_the_papers_sum_on_ragged_replies(seed: int, gamma: float, gae_lambda: float) -> None:
    lengths, mask = ragged(seed)
    rewards, values = noise(mask, seed), noise(mask, seed + 50)
    found = ppo_math.gae(rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda)
    for b, length in enumerate(lengths):
        r, v = rewards[b, :length].double().tolist(), [*values[b, :length].double().tolist(), 0.0]
        for t in range(length):  # equation 16 of arXiv 1506.02438, the sum written out
            expected = sum(
                (gamma * gae_lambda) ** k * (r[t + k] + gamma * v[t + k + 1] - v[t + k]) for k in range(length - t)
            )
            assert found[b, t].item() == pytest.approx(expected, abs=1e-5)
    assert bool((found[~mask] == 0).all())


def test_gamma_1_lambda_1_is_return_minus_value() -> None:
    lengths, mask = ragged(1)
    rewards, values = noise(mask, 1), noise(mask, 2)
    found = ppo_math.gae(rewards, values, mask, gamma=1.0, gae_lambda=1.0)
    for b, length in enumerate(lengths):
        for t in range(length):
            expected = sum(rewards[b, t:length].tolist()) - values[b, t].item()
            assert found[b, t].item() == pytest.approx(expected, abs=1e-5)


def test_lambda_0_is_the_td_error() -> None:
    # 0.2 + 0.9 * 2 - 1 = 1.0;  -0.1 + 0.9 * 0.5 - 2 = -1.65;  1 + 0 - 0.5 = 0.5
    rewards, values = torch.tensor([[0.2, -0.1, 1.0]]), torch.tensor([[1.0, 2.0, 0.5]])
    close(ppo_math.gae(rewards, values, full(1, 3), gamma=0.9, gae_lambda=0.0), [[1.0, -1.65, 0.5]])


@pytest.mark.parametrize("garbage", GARBAGE)
def test_nothing_follows_the_last_token_whatever_the_padding_holds(garbage: float) -> None:
    short, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.6, 0.8]])
    padding = torch.full((1, 2), garbage)
    mask = torch.tensor([[True, True, True, False, False]])
    longer = torch.cat([short, padding], 1), torch.cat([values, padding], 1)
    found = ppo_math.gae(*longer, mask, gamma=0.9, gae_lambda=0.5)
    close(found, [[0.1345, 0.21, 0.2, 0.0, 0.0]])


def test_inputs_are_left_as_they_were() -> None:
    _, mask = ragged(0)
    rewards, values = noise(mask, 1), noise(mask, 2)
    before = rewards.clone(), values.clone()
    ppo_math.gae(rewards, values, mask, gamma=0.9, gae_lambda=0.9)
    ppo_math.shape_rewards(torch.ones(len(mask)), rewards, values, mask, kl_coef=0.1)
    for now, then in zip((rewards, values), before, strict=True):
        assert_close(now, then, equal_nan=True, rtol=0, atol=0)


# entropy, explained_variance


@pytest.mark.parametrize("size", [2, 7, 151_936])
def test_the_entropy_of_the_uniform_distribution_is_the_log_of_its_size(size: int) -> None:
    close(ppo_math.entropy(torch.full((2, size), 3.0)), [math.log(size)] * 2)


def test_entropy_by_hand() -> None:
    # 1/4, 3/4: -(0.25 ln 0.25 + 0.75 ln 0.75) = 0.34657359 + 0.21576155 = 0.56233514
    close(ppo_math.entropy(torch.tensor([[[0.25, 0.75]]]).log() + 5.0), [[0.56233514]])
    close(ppo_math.entropy(torch.tensor([200.0, -200.0, 0.0])), 0.0)  # certain


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 4.0], 1.0),  # perfect
        ([3.0, 4.0, 6.0], 1.0),  # off by a constant: the error does not vary
        ([5.0, 5.0, 5.0], 0.0),  # a constant explains nothing
        ([0.0, 0.0, 0.0], 0.0),
        ([-1.0, -2.0, -4.0], -3.0),  # the error is twice the return: 1 - 4
        # errors 0, 0, 3: variance 3 - 1 = 2; returns: mean 7/3, variance 7 - 49/9 = 14/9; 1 - 2 * 9 / 14 = -0.28571429
        ([1.0, 2.0, 1.0], -0.28571429),
    ],
)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_explained_variance(values: list[float], expected: float, garbage: float) -> None:
    mask = torch.tensor([[True, True, True, False]])
    returns = torch.tensor([[1.0, 2.0, 4.0, garbage]])
    found = ppo_math.explained_variance(torch.tensor([[*values, garbage]]), returns, mask)
    close(found, expected)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, 0.7, 1.0, -3.3])
@pytest.mark.parametrize("count", [1, 3, 7, 100, 1000])
def test_where_returns_do_not_vary_there_is_nothing_to_explain(constant: float, count: int) -> None:
    # 0.1 is no float32 number, so its mean over 7 tokens is a rounding off and the variance not quite 0
    values = torch.randn(1, count, generator=torch.Generator().manual_seed(0))
    assert ppo_math.explained_variance(values, torch.full((1, count), constant), full(1, count)).isnan()


# what is refused


def test_masks_of_another_kind_or_shape_are_refused() -> None:
    x = torch.zeros(2, 3)
    for mask in (torch.ones(2, 3), torch.ones(2, 3, dtype=torch.int64), full(2, 4), full(3)):
        with pytest.raises(AssertionError):
            ppo_math.masked_sum(x, mask)
        with pytest.raises(AssertionError):
            ppo_math.gae(x, x, mask, gamma=1.0, gae_lambda=1.0)


def test_an_episode_without_tokens_and_a_score_too_many_are_refused() -> None:
    x, mask = torch.zeros(2, 3), torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()
    with pytest.raises(AssertionError, match="at least one reply token"):
        ppo_math.shape_rewards(torch.ones(2), x, x, mask, kl_coef=0.1)
    with pytest.raises(AssertionError, match="one score per episode"):
        ppo_math.shape_rewards(torch.ones(3), x, x, full(2, 3), kl_coef=0.1)
