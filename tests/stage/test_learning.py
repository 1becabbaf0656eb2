"""One optimizer step, looked at closely: how a minibatch is cut, padded or ordered must not matter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.models.value_head import ValueHead
from lite_huatuo.processes import Processes
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import joint, ppo_math
from lite_huatuo.training.ppo_update import Coefficients, Learner, learning_rate_factor
from lite_huatuo.training.rollout import Episode, Rollout, measure, reply_logprobs


def episodes(count: int = 8) -> list[Episode]:
    generator = torch.Generator().manual_seed(7)
    made = []
    for i in range(count):
        query = torch.randint(60, 200, (3 + i % 4,), generator=generator).tolist()
        reply = [*torch.randint(60, 200, (1 + (3 * i) % 7,), generator=generator).tolist(), 1]
        made.append(Episode(VerifiableProblem(f"p{i}", "q", "a"), query, reply, True, "", True, None, float(i % 2)))
    return made


def make(
    toy: dict[str, str], toy_run: RunDir, budget: int = 10_000, *, base: dict[str, str] | None = None, **changes: float
) -> Learner:
    adapter = toy_run.final("sft")
    shared = SharedBase.from_adapters(
        backends.load(toy["model"], **(base or {})),
        {"reference": adapter, "actor": adapter, "critic": adapter},
        ("actor", "critic"),
    )
    head = ValueHead(shared.hidden_size)
    torch.nn.init.constant_(head.linear.weight, 0.05)
    settings = {
        "temperature": 0.7,
        "clip_range": 0.2,
        "value_clip_range": 0.2,
        "value_coef": 1.0,
        "entropy_coef": 0.01,
        "max_grad_norm": 1e9,
        **changes,
    }
    return Learner(
        shared,
        head,
        Coefficients(microbatch_tokens=budget, **settings),
        optimizer="adamw",
        learning_rate=1e-3,
        critic_learning_rate=1e-3,
        value_head_learning_rate=1e-3,
        weight_decay=0.0,
    )


def collected(learner: Learner, made: list[Episode]) -> tuple[Rollout, torch.Tensor, torch.Tensor]:
    rollout = measure(learner.shared, learner.head, made, temperature=0.7, microbatch_tokens=10_000)
    rewards = ppo_math.shape_rewards(
        rollout.scores, rollout.logprobs, rollout.reference, rollout.reply_mask, kl_coef=0.03
    )
    advantages = ppo_math.gae(rewards, rollout.values, rollout.reply_mask, gamma=1.0, gae_lambda=0.95)
    return rollout, ppo_math.masked_whiten(advantages, rollout.reply_mask), rollout.values + advantages


def gradient(learner: Learner, made: list[Episode], members: list[int]) -> torch.Tensor:
    rollout, advantages, returns = collected(learner, made)
    learner._backward(rollout, advantages, returns, members, train_actor=True)
    parts = [p.grad.flatten() for o in learner.optimizers.values() for g in o.param_groups for p in g["params"]]
    for optimizer in learner.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    return torch.cat(parts)


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / one.norm()).item()


def test_a_minibatch_of_130_000_tokens_keeps_its_gradient_in_float16(toy: dict[str, str], tmp_path: Path) -> None:
    """As in a card's recipe: of many processes one does its share, some hundred tokens, of a loss over all tokens."""
    start = SharedBase.fresh(backends.load(toy["model"]), "actor", rank=8, alpha=16, targets="all-linear")
    for name, parameter in start.parameters("actor").items():
        if "lora_B" in name:  # else only it would have a gradient
            torch.nn.init.normal_(parameter, std=0.02)
    start.save("actor", tmp_path / "actor")
    run: Any = SimpleNamespace(final=lambda stage: tmp_path / "actor")
    half, full = (make(toy, run, base={"quantization": "none", "compute_dtype": d}) for d in ("float16", "float32"))
    rollout, advantages, returns = collected(full, episodes())
    copies = 130_000 // int(rollout.reply_mask.sum())
    tensors = {name: getattr(rollout, name).repeat(copies, 1) for name in joint.TENSORS}
    many = replace(rollout, episodes=rollout.episodes * copies, scores=rollout.scores.repeat(copies), **tensors)
    gradients: dict[str, list[torch.Tensor]] = {"actor": [], "critic": []}
    for learner in (half, full):
        learner.processes = Processes(rank=0, count=copies // 8)
        arguments = advantages.repeat(copies, 1), returns.repeat(copies, 1), list(range(len(many.episodes)))
        learner._backward(many, *arguments, train_actor=True)
        for name, found in gradients.items():
            found.append(torch.cat([p.grad.flatten() for p in learner._parameters(name)]))
    for name, (one, other) in gradients.items():
        assert torch.cosine_similarity(one, other, dim=0) >= 0.999, name
        assert one.norm().item() == pytest.approx(other.norm().item(), rel=1e-2), name


def test_a_samplers_own_log_probabilities_are_used_or_weighed(toy: dict[str, str], toy_run: RunDir) -> None:
    """Told numbers are taken as they are where they are exact; else they make importance weights, which the actor's
    gradient follows."""
    learner = make(toy, toy_run)
    made = episodes()
    actual, _, _ = collected(learner, made)
    for row, each in enumerate(made):
        each.logprobs = (actual.logprobs[row, : len(each.reply)] - 0.1).tolist()
        each.entropies = [1.0] * len(each.reply)
    arguments = {"temperature": 0.7, "microbatch_tokens": 10_000}
    told = measure(learner.shared, learner.head, made, sampled=True, **arguments)
    mask = told.reply_mask
    torch.testing.assert_close(told.logprobs[mask], actual.logprobs[mask] - 0.1)
    assert bool((told.weights == 1).all())
    for each in made:
        each.entropies = []  # as from vLLM, which does not tell them: not taken by its word
    torch.testing.assert_close(
        measure(learner.shared, learner.head, made, sampled=True, **arguments).logprobs, actual.logprobs
    )
    for cap, expected in ((2.0, torch.tensor(0.1).exp()), (1.05, torch.tensor(1.05))):
        own = measure(learner.shared, learner.head, made, weight_cap=cap, **arguments)
        torch.testing.assert_close(own.logprobs, actual.logprobs)
        torch.testing.assert_close(own.weights[mask], expected.expand(int(mask.sum())), rtol=1e-4, atol=0)
    learner.coefficients = replace(learner.coefficients, entropy_coef=0.0)
    plain = gradient(learner, episodes(), list(range(8)))
    heavier = gradient(learner, made, list(range(8)))  # `measure` cuts off at 1.0 unless told
    assert relative(plain, heavier) < 1e-5
    for each in made:
        each.logprobs = [number + 0.3 for number in each.logprobs]  # now 0.2 above: weights of exp(-0.2)
    lighter = gradient(learner, made, list(range(8)))
    actor = sum(p.numel() for group in learner.optimizers["actor"].param_groups for p in group["params"])
    assert relative(plain[:actor] * torch.tensor(-0.2).exp(), lighter[:actor]) < 1e-3
    assert relative(plain[actor:], lighter[actor:]) < 1e-5


@pytest.mark.parametrize("budget", [1, 16, 40], ids=["8 of 1", "some", "fewer"])
def test_microbatches_do_not_change_the_gradient(toy: dict[str, str], toy_run: RunDir, budget: int) -> None:
    whole = gradient(make(toy, toy_run), episodes(), list(range(8)))
    assert relative(whole, gradient(make(toy, toy_run, budget), episodes(), list(range(8)))) < 1e-5


def test_the_order_of_episodes_does_not_change_the_gradient(toy: dict[str, str], toy_run: RunDir) -> None:
    learner = make(toy, toy_run, 40)
    assert (
        relative(
            gradient(learner, episodes(), list(range(8))), gradient(learner, list(reversed(episodes())), list(range(8)))
        )
        < 1e-5
    )


def test_padding_beside_long_neighbours_changes_nothing(toy: dict[str, str], toy_run: RunDir) -> None:
    """Log-probabilities of an episode alone equal those in a batch with much longer ones."""
    learner = make(toy, toy_run)
    made = episodes(3)
    long = Episode(VerifiableProblem("long", "q", "a"), [70] * 30, [80] * 40, False, "", False, None, 0.0)
    alone, _, _ = collected(learner, made)
    beside, _, _ = collected(learner, [*made, long])
    for i, episode in enumerate(made):
        n = len(episode.reply)
        torch.testing.assert_close(alone.logprobs[i, :n], beside.logprobs[i, :n], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alone.values[i, :n], beside.values[i, :n], rtol=1e-5, atol=1e-5)


def test_left_and_right_padding_agree(toy: dict[str, str], toy_run: RunDir) -> None:
    """Our right-padded log-probabilities equal transformers' on the same content padded on the left."""
    learner = make(toy, toy_run)
    shared, made = learner.shared, episodes(4)
    rollout, _, _ = collected(learner, made)
    width = max(e.length for e in made)
    ids = torch.tensor([[0] * (width - e.length) + e.query + e.reply for e in made])
    mask = torch.tensor([[0] * (width - e.length) + [1] * e.length for e in made])
    with shared.using("actor"), torch.no_grad():
        logits = shared.causal(
            input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)
        ).logits
    for i, e in enumerate(made):
        n = len(e.reply)
        expected = (
            torch.log_softmax(logits[i, -n - 1 : -1] / 0.7, -1).gather(1, torch.tensor(e.reply)[:, None]).squeeze(1)
        )
        torch.testing.assert_close(rollout.logprobs[i, :n], expected, rtol=1e-4, atol=1e-4)


def test_only_the_critic_moves_while_the_actor_is_frozen(toy: dict[str, str], toy_run: RunDir) -> None:
    learner = make(toy, toy_run)
    before = {
        name: {k: p.detach().clone() for k, p in learner.shared.parameters(name).items()}
        for name in ("actor", "critic", "reference")
    }
    rollout, advantages, returns = collected(learner, episodes())
    learner.learn(
        rollout, advantages, returns, epochs=1, minibatches=2, target_kl=None, train_actor=False, factors=[1, 1]
    )
    moved = {
        name: any(not p.equal(before[name][k]) for k, p in learner.shared.parameters(name).items()) for name in before
    }
    assert moved == {"actor": False, "critic": True, "reference": False}


def test_the_first_step_has_ratio_one(toy: dict[str, str], toy_run: RunDir) -> None:
    learner = make(toy, toy_run)
    rollout, advantages, returns = collected(learner, episodes())
    figures = learner.step(rollout, advantages, returns, list(range(8)), train_actor=True)
    assert figures["policy/clip_share"] == 0.0
    assert figures["policy/approx_kl"] == pytest.approx(0.0, abs=1e-6)


def test_target_kl_stops_the_epochs(toy: dict[str, str], toy_run: RunDir) -> None:
    learner = make(toy, toy_run)
    rollout, advantages, returns = collected(learner, episodes())
    figures = learner.learn(
        rollout, advantages, returns, epochs=9, minibatches=1, target_kl=1e-9, train_actor=True, factors=[1.0] * 9
    )
    assert figures["policy/epochs"] == 2, "the first epoch has KL 0, the second passes the target"


def test_temperature_divides_the_logits_of_every_logprob(toy: dict[str, str], toy_run: RunDir) -> None:
    learner = make(toy, toy_run)
    from lite_huatuo.training.rollout import pack

    b = pack(learner.shared, episodes(2), 7)
    with learner.shared.using("actor"), torch.no_grad():
        hot, _ = reply_logprobs(learner.shared, b, temperature=100.0)
    vocabulary = learner.shared.lm_head.weight.shape[0]
    torch.testing.assert_close(
        hot[b.reply_mask].mean(), torch.tensor(-float(torch.log(torch.tensor(vocabulary)))), atol=0.2, rtol=0
    )


def test_learning_rate_factors() -> None:
    linear = [learning_rate_factor("linear", step, 10, 0.2) for step in range(10)]
    assert linear[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert linear[-1] == pytest.approx(1 / 8)
    assert learning_rate_factor("constant", 9, 10, 0.0) == 1.0
    assert learning_rate_factor("cosine", 5, 10, 0.0) == pytest.approx(0.5)
