"""Stage 2: PPO with a verifier's score, actor, critic and reference being adapters on one frozen base.

Each update: 1 collect, 2 shape rewards, 3 advantages, 4 epochs of minibatches, 5 log, sample, checkpoint.
Reads runs/<name>/sft/final/actor; writes runs/<name>/ppo/final/{actor,critic,reference} and value_head.safetensors.

Departures from the published code: LoRA adapters instead of full weights (a learning rate ten times its own), the score
at the stop token itself instead of one position later, gradients clipped for actor and critic apart.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from lite_huatuo import manifest
from lite_huatuo.errors import CheckpointError, RecordError, WatchStop
from lite_huatuo.models.shared_base import describe
from lite_huatuo.processes import ALONE, Processes
from lite_huatuo.recipe import Recipe
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.run_dir import RunDir
from lite_huatuo.stopping import Interrupted, Stop
from lite_huatuo.training import (
    checkpoint,
    heldout,
    inputs,
    joint,
    metrics,
    ppo_figures,
    ppo_math,
    ppo_stage,
    preflight,
    rollout,
    watch,
)
from lite_huatuo.training.phases import Phases
from lite_huatuo.training.ppo_stage import Stage, State
from lite_huatuo.training.ppo_update import learning_rate_factor
from lite_huatuo.training.progress import Progress, Quiet
from lite_huatuo.training.rollout import Episode, Rollout
from lite_huatuo.training.watch import WatchState


def train(
    recipe: Recipe,
    run: RunDir,
    progress: Progress | None = None,
    *,
    accept_verifier: bool = False,
    processes: Processes = ALONE,
    stop: Stop | None = None,
) -> None:
    """Run stage 2 in a run folder, from its newest checkpoint if there is one. A finished stage is left alone.

    The verifier must pass the recipe's bar and be the one that stage 2 began with, unless `accept_verifier` takes it.
    Processes share rollouts, verdicts and gradients. On SIGINT or SIGTERM `stop` makes it write a checkpoint and end.
    """
    from transformers import set_seed

    progress = progress or Quiet()
    if processes.once(lambda: run.is_done("ppo")):
        progress.note("stage 2 (PPO) is done already")
        return
    start = run.sound("sft", where=recipe.ppo.start_from)
    preflight.same_verifier(recipe, run, anyway=accept_verifier, processes=processes)
    set_seed(recipe.ppo.seed)
    stage = ppo_stage.assemble(recipe, run, progress, start, processes, stop)
    preflight.accept_verifier(recipe, run, stage.verifier, anyway=accept_verifier, processes=processes)
    _resume(stage)
    if stage.state.update == 0 and stage.state.best_score is None:
        _select_start(stage)
    progress.note(
        f"stage 2 (PPO): {len(stage.problems)} problems, {stage.too_long} dropped as too long, {len(stage.selection)} "
        f"to choose the best checkpoint, {stage.updates} updates of {recipe.ppo.rollout.episodes} episodes, "
        f"{'vLLM writes the replies' if stage.engine else f'{stage.rows} replies written at once'}"
    )
    run.event("ppo started", update=stage.state.update, **describe(stage.shared))
    progress.start("train ppo", stage.updates)
    progress.advance(stage.state.update)
    _updates(stage)
    _choose_final(stage)
    where = run.path / "eval"
    heldout.report(
        stage.shared, "actor", "ppo", stage.heldout, stage.verifier, where, progress, processes, **stage.limits
    )
    processes.once(lambda: _finish(stage))
    run.event("ppo finished", best_update=stage.state.best_update)
    stage.log.close()


def _finish(stage: Stage) -> None:
    """Write the final adapters, whole or not at all; a best policy that they are stays: no checkpoint could make them
    again without it."""
    folder = stage.run.stage("ppo")
    checkpoint.save_policy(folder / "final", stage.shared, stage.learner.head, ("actor", "critic", "reference"))
    for path in set((folder / "best").glob("*")) - ({ppo_stage.best(stage)} if ppo_stage.takes_best(stage) else set()):
        shutil.rmtree(path, ignore_errors=True)


def _updates(stage: Stage) -> None:
    """Do the updates that are left. A signal ends the one that samples or scores, and waits for the end of the one that
    learns; a checkpoint of the last whole update stands before Interrupted goes on."""
    with stage.stop.held():  # all through, but where `released` says so: no gap is left to lose updates in
        while stage.state.update < stage.updates:
            _update_or_save(stage)
    stage.stop.check()


def _update_or_save(stage: Stage) -> None:
    """Do one update; save where a signal has come, or another process has gone while this one's state is whole."""
    before = checkpoint.random_states()
    try:
        _update(stage)
    except (Interrupted, RuntimeError):  # the second: what is lost by the process that waits for one that has stopped
        if (stage.stop.signal or stage.processes.count > 1) and not stage.torn:
            checkpoint.restore_random_states(*before)
            _save(stage)
        raise
    if stage.stop.signal:
        _save(stage)
        raise Interrupted(stage.stop.signal)


def _update(stage: Stage) -> None:
    """Do one update, the five steps."""
    settings, update, phases = stage.settings, stage.state.update + 1, Phases()

    # 1 collect
    count = settings.rollout.episodes
    with stage.stop.released(), phases("rollout"):
        mine = _collect(stage, inputs.pick(stage.problems, stage.state.update * count, count, settings.seed))
    with phases("scoring"):
        with stage.stop.released():
            measured = _measure(stage, mine)
        # a signal waits from here on: of processes that have met, none may leave while another learns
        whole = joint.joined(measured, stage.processes)
        data = _judged(stage, rollout.scored(whole), update)

    # 2 shape rewards
    mask = data.reply_mask
    rewards = ppo_math.shape_rewards(data.scores, data.logprobs, data.reference, mask, kl_coef=settings.kl_coef)

    # 3 advantages; the critic may have a lambda of its own (decoupled GAE)
    advantages = ppo_math.gae(rewards, data.values, mask, gamma=settings.gamma, gae_lambda=settings.gae_lambda)
    critic_lambda = settings.gae_lambda if settings.critic_gae_lambda is None else settings.critic_gae_lambda
    returns = data.values + ppo_math.gae(rewards, data.values, mask, gamma=settings.gamma, gae_lambda=critic_lambda)
    used = ppo_math.masked_whiten(advantages, mask) if settings.whiten_advantages else advantages

    # 4 epochs of minibatches
    stage.torn = True
    with phases("learning"):
        figures = stage.learner.learn(
            data,
            used,
            returns,
            epochs=settings.epochs,
            minibatches=settings.minibatches,
            target_kl=settings.target_kl,
            train_actor=update > settings.critic_warmup_updates,
            factors=_factors(stage),
        )

    # 5 log, sample, checkpoint
    row = {
        "update": update,
        **ppo_figures.figures(data, rewards, advantages, returns),
        **figures,
        **phases.figures,
        "time/tokens_per_second": int(mask.sum()) / phases.seconds,
    }
    stage.state.update = update
    _conclude(stage, whole.episodes, row)
    stage.torn = False


def _conclude(stage: Stage, episodes: list[Episode], row: dict[str, Any]) -> None:
    """End an update: watch, evaluate, log, sample, checkpoint, and stop where the watch says so."""
    settings, update = stage.settings, stage.state.update
    warned = _watch(stage, [episode for episode in episodes if episode.score is not None], row)
    row.update(_select(stage))
    stage.run.log("ppo", metrics.check(row))
    stage.log.write(row, update)
    if update % settings.sample_every == 0 or update == 1:
        stage.run.sample("ppo", [{"update": update, **heldout.prediction(e)} for e in episodes[: settings.samples]])
    if update % settings.save_every == 0 or update == stage.updates:
        _save(stage)
    _stop_if(stage, warned)
    shown = ("score/mean", "score/form_share", "reference/kl_per_token")
    stage.progress.advance(1, **{name: row[name] for name in shown})


def _collect(stage: Stage, problems: list[VerifiableProblem]) -> list[Episode]:
    """Sample one reply per problem from the actor; of several processes each does its part."""
    settings = stage.settings.rollout
    seeds = stage.processes.part(torch.randint(2**62, (len(problems),)).tolist())
    problems = stage.processes.part(problems)
    queries = [stage.shared.tokenizer.query(problem.question) for problem in problems]
    limits: dict[str, Any] = {
        "max_reply_length": settings.max_reply_length, "temperature": settings.temperature, "top_p": settings.top_p,
    }  # fmt: skip
    if stage.engine is not None:
        replies = stage.engine.decode(stage.shared, "actor", queries, seeds=seeds, **limits)
        return [rollout.episode(stage.shared, *each) for each in zip(problems, queries, replies, strict=True)]
    with stage.shared.using("actor"):
        return rollout.generate(stage.shared, problems, queries, batch_size=stage.rows, seeds=seeds, **limits)


def _measure(stage: Stage, episodes: list[Episode]) -> Rollout:
    """Judge the episodes, while their log-probabilities and values are computed where the verifier only waits."""
    settings = stage.settings
    with rollout.judging(episodes, stage.verifier, truncated=settings.truncated):
        return rollout.measure(
            stage.shared,
            stage.learner.head,
            episodes,
            temperature=settings.rollout.temperature,
            microbatch_tokens=settings.microbatch_tokens,
            sampled=stage.sampled,
            weight_cap=settings.rollout.weight_cap,
            trunk_layers=stage.learner.coefficients.trunk_layers,
        )


def _judged(stage: Stage, data: Rollout, update: int) -> Rollout:
    """Return the rollout if enough of its episodes were judged; those that were not are left out and counted."""
    judged, failed = len(data.episodes), data.dropped
    if not judged or judged < stage.least_judged_share * (judged + len(failed)):
        reason = next((e.verdict.failure for e in failed if e.verdict and e.verdict.failure), "unknown")
        raise RecordError(
            f"update {update}: the verifier judged {judged} of {judged + len(failed)} episodes ({reason}); mend it, "
            "then go on with --resume, or lower verifier.least_judged_share"
        )
    return data


def _watch(stage: Stage, episodes: Sequence[Episode], row: dict[str, Any]) -> list[watch.Warned]:
    """Add the signs of a policy that goes astray to the row; tell and return those beyond their limits."""
    settings, state = stage.settings.watch, stage.state
    row.update(watch.signs(episodes, row, state.watch))
    if stage.second is not None:
        row.update(watch.second_opinion(episodes, stage.second, settings.episodes))
    found = watch.check(row, settings.model_dump(), state.watch)
    for warned in found:
        stage.progress.note(f"warning: update {state.update}: {warned.text} ({warned.streak} in a row)")
        stage.run.event("watch", update=state.update, sign=warned.sign, streak=warned.streak, text=warned.text)
        stage.log.alert(f"{warned.sign}, update {state.update}", warned.text, ends=warned.streak >= settings.patience)
    return found


def _stop_if(stage: Stage, warned: list[watch.Warned]) -> None:
    """Stop the run where a sign has been beyond its limit for too long."""
    sign = next((sign for sign in warned if sign.streak >= stage.settings.watch.patience), None)
    if sign is not None:
        stage.processes.wait()
        good = checkpoint.at_most(stage.run.stage("ppo") / "checkpoints", stage.state.watch.good)
        raise WatchStop(watch.stopped(sign, stage.state.update, good or stage.run.final("sft")))


def _factors(stage: Stage) -> list[float]:
    """Return the learning rate factors of this update's optimizer steps."""
    settings = stage.settings
    steps = settings.epochs * settings.minibatches
    return [
        learning_rate_factor(
            settings.schedule, stage.state.update * steps + step, stage.updates * steps, settings.warmup_ratio
        )
        for step in range(steps)
    ]


def _select(stage: Stage) -> dict[str, float]:
    """Every eval_every updates and at the end: evaluate on the selection problems and keep the best policy."""
    settings, state = stage.settings, stage.state
    if not stage.selection or (state.update % settings.eval_every and state.update != stage.updates):
        return {}
    mine = stage.processes.part(stage.selection)
    queries = [stage.shared.tokenizer.query(problem.question) for problem in mine]
    with stage.shared.using("actor"):
        limits: dict[str, Any] = stage.limits
        episodes = rollout.generate(stage.shared, mine, queries, temperature=None, **limits)
    rollout.judge(episodes, stage.verifier)
    summary = heldout.summarise(stage.processes.merge([heldout.prediction(episode) for episode in episodes]))
    judged = summary["problems"] - summary["failed"]
    if not judged:
        stage.progress.note(f"update {state.update}: the verifier failed on every selection problem; no candidate")
        return {}
    if state.best_score is None or summary["score"] >= state.best_score:
        state.best_update, state.best_score = state.update, summary["score"]
        if stage.processes.main:
            checkpoint.save_policy(ppo_stage.best(stage), stage.shared, stage.learner.head, ("actor", "critic"))
    return {
        "heldout/score": summary["score"],
        "heldout/right_share": summary["right"] / judged,
        "heldout/form_share": summary["well_formed"] / summary["problems"],
    }


def _select_start(stage: Stage) -> None:
    """Evaluate the SFT policy like a checkpoint: the curve begins with it, and where PPO never beats it, it stays."""
    if figures := _select(stage):
        stage.run.log("ppo", metrics.check({"update": 0, **figures}))


def _save(stage: Stage) -> None:
    """Write a checkpoint, then delete what no checkpoint needs."""
    if not stage.state.watch.streaks:
        stage.state.watch.good = stage.state.update
    if not stage.processes.main or stage.saved == stage.state.update:
        return
    folder = stage.run.stage("ppo") / "checkpoints"
    path = folder / f"update-{stage.state.update:06d}"
    checkpoint.save(
        path, stage.shared, stage.learner.head, stage.learner.optimizers, asdict(stage.state), run=stage.run.id
    )
    stage.saved = stage.state.update
    checkpoint.prune(folder, stage.settings.keep_checkpoints, spare=stage.state.watch.good)


def _resume(stage: Stage) -> None:
    """Go on from the newest checkpoint, or from the beginning; drop what was logged after it."""
    last = -1
    newest = checkpoint.newest(stage.run, "ppo", "update-*", stage.progress, stage.processes)
    if newest is not None:
        saved = checkpoint.load(newest, stage.shared, stage.learner.head, stage.learner.optimizers, stage.progress)
        stage.state = State(**{**saved, "watch": WatchState(**saved["watch"])})
        last = stage.saved = stage.state.update
    stage.run.rewind("ppo", "update", last)


def _choose_final(stage: Stage) -> None:
    """Load the best policy into actor and critic, where the recipe asks for it."""
    state = stage.state
    if ppo_stage.takes_best(stage):
        what = f"update {state.best_update}" if state.best_update else "the SFT policy: no update was better"
        stage.progress.note(f"best on the selection problems: {what}")
        stage.processes.wait()
        best = ppo_stage.best(stage)
        if (wrong := manifest.damage(best)) is not None:
            raise CheckpointError(
                f"{best}: the best policy is damaged ({wrong}); put it back from a copy, or set aside the "
                f"checkpoints from update {state.best_update} on and go on with --resume"
            )
        for adapter in ("actor", "critic"):
            stage.shared.load(adapter, best / adapter)
        stage.learner.head.load(best / "value_head.safetensors")
