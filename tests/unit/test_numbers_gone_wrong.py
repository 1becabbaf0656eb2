"""Numbers gone wrong: what is not finite is left out and counted, or stops the run with a reason; weights and optimiser
states are to the bit what they were before."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lite_huatuo import jsonl
from lite_huatuo import recipe as recipes
from lite_huatuo.errors import BackendError, RecordError, WatchStop
from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import finite, metrics, ppo, ppo_math, ppo_update, reward, rollout, sft, vllm_engine
from lite_huatuo.training.ppo_update import Learner
from lite_huatuo.verifier.base import Item, Verdict
from lite_huatuo.verifier.classifier import ClassifierVerifier
from lite_huatuo.verifier.ensemble import EnsembleVerifier
from tests import tiny
from tests.stage.test_learning import collected, episodes, make

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def adapter(toy: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that nobody trained."""
    folder = tmp_path_factory.mktemp("start") / "actor"
    shared = SharedBase.fresh(backends.load(toy["model"]), "actor", rank=4, alpha=8, targets="all-linear")
    shared.save("actor", folder)
    return folder


@pytest.fixture
def learner(toy: dict[str, str], adapter: Path) -> Learner:
    run: Any = SimpleNamespace(final=lambda stage: adapter)
    return make(toy, run, max_grad_norm=1.0)


def held(learner: Learner) -> dict[str, Any]:
    """Return a copy of all that learns, and of what the optimisers hold."""
    parts = {name: learner.shared.parameters(name) for name in ("reference", "actor", "critic")}
    weights = {f"{n}.{k}": p.detach().clone() for n, part in parts.items() for k, p in part.items()}
    weights.update({f"head.{k}": p.detach().clone() for k, p in learner.head.named_parameters()})
    return {"weights": weights, **{n: copy.deepcopy(o.state_dict()["state"]) for n, o in learner.optimizers.items()}}


def same(one: Any, other: Any) -> bool:
    """True where two such copies are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def learn(learner: Learner, numbers: Any = None, **changes: Any) -> dict[str, float]:
    """Learn from eight episodes, two epochs of two minibatches."""
    arguments: dict[str, Any] = {"epochs": 2, "minibatches": 2, "target_kl": None, "train_actor": True}
    return learner.learn(*(numbers or collected(learner, episodes())), **{**arguments, **changes}, factors=[1.0] * 4)


def spoil(monkeypatch: pytest.MonkeyPatch, name: str, value: float, calls: set[int]) -> None:
    """Make a loss of ppo_math `value` in these calls of it (from 0)."""
    actual, count = getattr(ppo_math, name), iter(range(1000))

    def spoiled(*given: Any, **named: Any) -> Any:
        found = actual(*given, **named)
        return found._replace(loss=found.loss * value) if next(count) in calls else found

    monkeypatch.setattr(ppo_math, name, spoiled)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("loss", ["policy_loss", "value_loss"])
def test_a_step_with_a_broken_loss_is_left_out_and_counted(
    learner: Learner, loss: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(learner)  # so that the optimisers hold moments
    before, numbers = held(learner), collected(learner, episodes())
    spoil(monkeypatch, loss, value, {0})
    assert learner.step(*numbers, list(range(8)), train_actor=True) == {}
    assert same(held(learner), before)
    assert all(p.grad is None for o in learner.optimizers.values() for g in o.param_groups for p in g["params"])
    monkeypatch.undo()
    spoil(monkeypatch, loss, value, {1})
    figures = metrics.check(learn(learner, numbers))
    assert figures["learn/skipped_steps"] == 1
    assert finite.all_finite(figures.values()), "the broken step is in no mean"
    assert not same(held(learner), before), "the three others were taken"
    assert all(bool(torch.isfinite(w).all()) for w in held(learner)["weights"].values())


@pytest.mark.parametrize("name", ["actor", "critic"])
def test_a_broken_gradient_under_a_whole_loss_is_seen(learner: Learner, name: str) -> None:
    """As float16 leaves it, whose products overflow in backward first."""
    numbers, before = collected(learner, episodes()), held(learner)
    parameter = next(iter(learner.shared.parameters(name).values()))
    hook = parameter.register_hook(lambda gradient: torch.full_like(gradient, INF))
    assert learner.step(*numbers, list(range(8)), train_actor=True) == {}
    hook.remove()
    assert same(held(learner), before)


def test_a_sound_update_skips_nothing(learner: Learner) -> None:
    assert learn(learner)["learn/skipped_steps"] == 0


def test_an_update_of_broken_steps_only_ends_the_run(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    learn(learner)
    before = held(learner)
    spoil(monkeypatch, "value_loss", NAN, set(range(100)))
    with pytest.raises(WatchStop, match=r"all 4 optimizer steps of the update .* not finite.*go on with --resume"):
        learn(learner)
    assert same(held(learner), before)


def test_a_value_head_gone_wrong_ends_the_run(learner: Learner) -> None:
    with torch.no_grad():
        learner.head.linear.weight[0, 0] = NAN
    before = held(learner)
    with pytest.raises(WatchStop, match="the values of 8 of 8 episodes hold what is no finite number"):
        learn(learner)
    assert all(
        torch.equal(weight.nan_to_num(7.0), before["weights"][name].nan_to_num(7.0))
        for name, weight in held(learner)["weights"].items()
    )


@pytest.mark.parametrize(("name", "told"), [("actor", "the log-prob"), ("reference", "the reference's log-prob")])
def test_logits_gone_wrong_end_the_run(learner: Learner, name: str, told: str) -> None:
    with torch.no_grad():
        for parameter in learner.shared.parameters(name).values():
            parameter.fill_(NAN)
    with pytest.raises(WatchStop, match=told):
        learn(learner)


def test_one_broken_weight_ends_the_run_though_attention_hides_it(learner: Learner) -> None:
    """On a CPU attention over a query of NaN gives numbers; the gradient does not."""
    with torch.no_grad():
        next(iter(learner.shared.parameters("actor").values()))[0, 0] = NAN
    with pytest.raises(WatchStop, match=r"not finite|no finite number"):
        learn(learner)
    assert all(bool(torch.isfinite(p).all()) for p in learner.shared.parameters("critic").values())


def test_a_policy_of_broken_logits_still_ends_its_replies(learner: Learner) -> None:
    """Sampling from no distribution must not crash or go on for ever; what it wrote is refused before learning."""
    with torch.no_grad():
        for parameter in learner.shared.parameters("actor").values():
            parameter.fill_(NAN)
    made = episodes(2)
    with learner.shared.using("actor"):
        written = rollout.generate(
            learner.shared, [e.problem for e in made], [e.query for e in made], max_reply_length=5, batch_size=2,
            temperature=1.0,
        )  # fmt: skip
    assert all(1 <= len(each.reply) <= 5 for each in written)
    for each in written:
        each.score = 0.0
    with pytest.raises(WatchStop, match="of 2 of 2 episodes"):
        learn(learner, collected(learner, written))


def test_advantages_gone_wrong_end_the_run(learner: Learner) -> None:
    data, advantages, returns = collected(learner, episodes())
    advantages[3, 0] = INF
    with pytest.raises(WatchStop, match="the advantages of 1 of 8 episodes"):
        learn(learner, (data, advantages, returns))


def test_what_stands_at_masked_places_breaks_nothing(learner: Learner) -> None:
    data, advantages, returns = collected(learner, episodes())
    broken = [x.masked_fill(~data.reply_mask, NAN) for x in (advantages, returns)]
    assert finite.all_finite(learn(learner, (data, *broken)).values())


@settings(max_examples=100)
@given(st.floats(-1e4, 1e4, width=32), st.integers(1, 9), st.integers(1, 9))
def test_equal_advantages_whiten_to_nothing(value: float, rows: int, columns: int) -> None:
    """Rounding must not be blown up to a signal."""
    mask = torch.ones(rows, columns, dtype=torch.bool)
    assert bool((ppo_math.masked_whiten(torch.full((rows, columns), value), mask) == 0).all())


def test_an_update_of_equal_advantages_moves_no_policy(learner: Learner) -> None:
    data, advantages, returns = collected(learner, episodes())
    before = held(learner)["weights"]
    learner.coefficients = ppo_update.Coefficients(**{**vars(learner.coefficients), "entropy_coef": 0.0})
    figures = learn(learner, (data, torch.full_like(advantages, 0.3) * 0, returns))
    assert figures["learn/skipped_steps"] == 0
    after = held(learner)["weights"]
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("actor."))
    assert not all(torch.equal(after[name], before[name]) for name in after if name.startswith("critic."))


def test_a_reply_of_no_tokens_is_told() -> None:
    """The network's own reply is at least its stop token; vLLM's may be anything."""
    with pytest.raises(BackendError, match="a reply of no tokens"):
        vllm_engine._reply(SimpleNamespace(token_ids=[], logprobs=[]), [1])
    mask, zeros = torch.zeros(1, 2, dtype=torch.bool), torch.zeros(1, 2)
    with pytest.raises(AssertionError, match="at least one reply token"):
        ppo_math.shape_rewards(torch.ones(1), zeros, zeros, mask, kl_coef=0.1)


def test_a_reply_that_stops_at_once_is_learned_from(learner: Learner) -> None:
    made = episodes(2)
    for each in made:
        each.reply = [1]
    assert finite.all_finite(learn(learner, collected(learner, made)).values())


# --- Judges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.8])
def test_an_update_without_any_verdict_ends_the_run(share: float) -> None:
    made = episodes(4)
    for each in made:
        each.verdict, each.score = Verdict(None, failure="the line broke"), None
    stage: Any = SimpleNamespace(least_judged_share=share)
    data: Any = SimpleNamespace(episodes=[], dropped=made)
    with pytest.raises(RecordError, match=r"update 3: the verifier judged 0 of 4 episodes \(the line broke\)"):
        ppo._judged(stage, data, 3)


def test_a_judge_that_fails_is_no_score() -> None:
    assert reward.score(True, Verdict(None, failure="x")) is None
    with pytest.raises(AssertionError):
        Verdict(None)


def test_a_classifier_whose_output_is_no_number_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = object.__new__(ClassifierVerifier)
    verifier.threshold = 0.4
    verdict = verifier._verdict(NAN)
    assert verdict.correct is None
    assert "not a number" in str(verdict.failure)


def test_an_ensemble_counts_a_failed_member_as_no_voice() -> None:
    class Says:
        background = False

        def __init__(self, verdict: Verdict) -> None:
            self.name, self.verdict = "says", verdict

        def verify(self, items: Any) -> list[Verdict]:
            return [self.verdict for _ in items]

    item, failed = Item("q", "r", "g"), Verdict(None, failure="not a number")
    for mode in ("agree", "any", "weighted"):
        for other in (failed, Verdict(True, "", 0.45)):
            members: Any = [Says(failed), Says(other)]
            [verdict] = EnsembleVerifier(members, mode=mode, threshold=0.4).verify([item])  # type: ignore[arg-type]
            assert verdict.probability is None or math.isfinite(verdict.probability)
            if other is failed:
                assert verdict.correct is None


# --- SFT -------------------------------------------------------------------------------------------------------------


def test_sft_leaves_a_broken_step_out_counts_it_and_stops_after_some() -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
    guard, state = finite.gradient_guard(layer.parameters()), SimpleNamespace(global_step=3)

    def step(value: float) -> None:
        for parameter in layer.parameters():
            parameter.grad = torch.full_like(parameter, value)
        layer.bias.grad = torch.ones(2)
        guard.on_pre_optimizer_step(None, state, None)
        optimizer.step()

    def now() -> Any:
        return copy.deepcopy([layer.state_dict(), optimizer.state_dict()["state"]])

    step(1.0)
    for value in (NAN, INF, -INF):
        before = now()
        step(value)
        assert all(same(one, other) for one, other in zip(now(), before, strict=True))
    logs = {"loss": 1.0, "grad_norm": NAN}
    guard.on_log(None, state, None, logs)
    assert logs == {"loss": 1.0, "skipped_steps": 3}
    step(1.0)
    assert not same(now()[0], before[0])
    evaluation = {"eval_loss": INF}
    guard.on_log(None, state, None, evaluation)
    assert evaluation == {}
    for _ in range(finite.IN_A_ROW - 1):
        step(NAN)
    with pytest.raises(WatchStop, match="SFT, step 4: 5 steps in a row had a gradient that is not finite"):
        step(NAN)


def test_stage_one_goes_on_after_a_broken_step(
    toy: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three optimizer steps, the second of them broken; its line tells, and the adapter is sound."""
    from trl import SFTTrainer

    tree = tiny.short_recipe(toy)
    tree["data"].update(sft_limit=12, sft_eval_share=0.0, heldout_limit=2)
    tree["sft"].update(epochs=1.0, batch_size=4, microbatch_size=4, early_checkpoints=[])
    recipe = recipes.check(tree, "broken step")
    actual = SFTTrainer.compute_loss

    def broken(self: Any, *given: Any, **named: Any) -> Any:
        return actual(self, *given, **named) * (NAN if self.state.global_step == 1 else 1.0)

    monkeypatch.setattr(SFTTrainer, "compute_loss", broken)
    run = RunDir.create(tmp_path / "run", recipe.model_dump())
    sft.train(recipe, run)
    lines = [row for _, row in jsonl.iter_rows(run.stage("sft") / "metrics.jsonl")]
    assert [row["sft/skipped_steps"] for row in lines] == [0, 1, 0]
    assert ["sft/gradient_norm" in row for row in lines] == [True, False, True]
    state = load_file(run.final("sft") / "adapter_model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
    assert any(bool(tensor.any()) for name, tensor in state.items() if "lora_B" in name), "the others were taken"
