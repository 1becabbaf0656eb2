"""This project as a contender of benchmarks/ppo_update.py: the update of training/ppo.py without a recipe around it.

Left out are the verifier (scores are made up, as everywhere here), logging and checkpoints. The rest is what
`lite-huatuo train` does, with its defaults but for the microbatches (see `--microbatch-tokens`) and checkpointing (off
for every contender).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import protocol
import torch
from torch import Tensor

from lite_huatuo import recipe
from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.models.value_head import ValueHead
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.training import ppo_math, ppo_stage, rollout
from lite_huatuo.training.ppo_update import Coefficients, Learner


def forced(lengths: list[int], stop: int) -> Callable[[Tensor, Sequence[int], Sequence[int]], Tensor]:
    """Return a choice of tokens that samples, but ends each reply at its drawn length and never before."""

    def choose(logits: Tensor, rows: Sequence[int], positions: Sequence[int]) -> Tensor:
        scores = logits.clone()
        scores[:, stop] = float("-inf")
        tokens = torch.multinomial(torch.softmax(scores, dim=1), 1)[:, 0]
        ends = torch.tensor([position + 1 == lengths[row] for row, position in zip(rows, positions, strict=True)])
        return tokens.masked_fill(ends, stop)

    return choose


def settings(contender: protocol.Contender) -> recipe.PPO:
    arguments, work = contender.arguments, contender.work
    return recipe.PPO(
        rollout=recipe.Rollout(
            episodes=len(work["queries"]),
            temperature=work["temperature"],
            max_reply_length=work["max_reply"],
            batch_size=len(work["queries"]),
        ),
        critic=recipe.Critic(trunk="reference" if arguments.trunk else "own", layers=arguments.trunk or 1),
        epochs=work["epochs"],
        minibatches=arguments.minibatches,
        microbatch_tokens=arguments.microbatch_tokens,
        learning_rate=work["learning_rate"],
        kl_coef=work["kl_coef"],
        clip_range=work["clip_range"],
        value_clip_range=work["clip_range"],
        gae_lambda=work["gae_lambda"],
        gradient_checkpointing=False,
    )


def load(contender: protocol.Contender) -> SharedBase:
    """Return the base with three adapters that start as one saved adapter, as PPO starts after SFT."""
    arguments, folder = contender.arguments, contender.arguments.work / "adapter"
    base = backends.load(
        contender.model, quantization=arguments.quantization, keep_dequantised=arguments.keep_dequantised
    )
    return SharedBase.from_adapters(base, dict.fromkeys(("reference", "actor", "critic"), folder), ("actor", "critic"))


def learner(chosen: recipe.PPO, shared: SharedBase) -> Learner:
    rate = chosen.learning_rate
    return Learner(
        shared,
        ValueHead(shared.hidden_size),
        Coefficients(
            temperature=chosen.rollout.temperature,
            clip_range=chosen.clip_range,
            value_clip_range=chosen.value_clip_range,
            value_coef=chosen.value_coef,
            entropy_coef=chosen.entropy_coef,
            max_grad_norm=chosen.max_grad_norm,
            microbatch_tokens=chosen.microbatch_tokens,
            trunk_layers=ppo_stage.trunk_layers(chosen, shared),
        ),
        optimizer=chosen.optimizer,
        learning_rate=rate,
        critic_learning_rate=rate,
        value_head_learning_rate=rate,
        weight_decay=chosen.weight_decay,
    )


def update(
    contender: protocol.Contender, chosen: recipe.PPO, shared: SharedBase, learns: Learner, clock: protocol.Clock
) -> list[int]:
    """Run one PPO update as training/ppo.py does; return the lengths of the replies."""
    queries = contender.work["queries"]
    problems = [VerifiableProblem(str(i), f"question {i}", "answer") for i in range(len(queries))]
    with shared.using("actor"):
        episodes = rollout.generate(
            shared,
            problems,
            queries,
            max_reply_length=chosen.rollout.max_reply_length,
            batch_size=chosen.rollout.batch_size,
            temperature=chosen.rollout.temperature,
            choose=forced(contender.lengths(), shared.tokenizer.end_id),
        )
    clock.start("scoring")
    for episode in episodes:
        episode.score = float(len(episode.reply) % 2)
    measured = rollout.measure(
        shared,
        learns.head,
        episodes,
        temperature=chosen.rollout.temperature,
        microbatch_tokens=chosen.microbatch_tokens,
        sampled=shared.exact,  # what the recipe's "auto" means
        weight_cap=chosen.rollout.weight_cap,
        trunk_layers=learns.coefficients.trunk_layers,
    )
    data = rollout.scored(measured)
    mask = data.reply_mask
    rewards = ppo_math.shape_rewards(data.scores, data.logprobs, data.reference, mask, kl_coef=chosen.kl_coef)
    advantages = ppo_math.gae(rewards, data.values, mask, gamma=chosen.gamma, gae_lambda=chosen.gae_lambda)
    clock.start("learning")
    learns.learn(
        data,
        ppo_math.masked_whiten(advantages, mask),
        data.values + advantages,
        epochs=chosen.epochs,
        minibatches=chosen.minibatches,
        target_kl=None,
        train_actor=True,
        factors=[1.0] * (chosen.epochs * chosen.minibatches),
    )
    return [len(episode.reply) for episode in episodes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--microbatch-tokens", type=int, default=256, help="most tokens in one forward pass")
    parser.add_argument("--trunk", type=int, default=0, help="layers of the critic's own on the reference's trunk")
    parser.add_argument("--keep-dequantised", action="store_true", help="NF4: float32 copies beside the weights")
    contender = protocol.Contender(parser)
    torch.set_num_threads(contender.work["threads"])
    torch.manual_seed(contender.work["seed"])
    contender.begin()
    chosen = settings(contender)
    shared = load(contender)
    learns = learner(chosen, shared)
    arguments = contender.arguments
    contender.ready(
        microbatch_tokens=arguments.microbatch_tokens,
        trunk=arguments.trunk,
        keep_dequantised=arguments.keep_dequantised,
        sampled_logprobs=shared.exact,
    )
    while contender.wait():
        clock = protocol.Clock("rollout")
        contender.report(clock, update(contender, chosen, shared, learns, clock))


if __name__ == "__main__":
    main()
