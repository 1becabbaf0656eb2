"""What one PPO run works with: base and adapters, optimisers, verifiers, data, and what a checkpoint remembers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lite_huatuo.errors import BackendError
from lite_huatuo.models import backends, run_base
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.models.value_head import ValueHead
from lite_huatuo.planning import row_count
from lite_huatuo.processes import ALONE, Processes
from lite_huatuo.recipe import PPO, Recipe
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.run_dir import RunDir
from lite_huatuo.stopping import Stop
from lite_huatuo.training import inputs, trackers
from lite_huatuo.training.ppo_update import Coefficients, Learner
from lite_huatuo.training.progress import Progress
from lite_huatuo.training.vllm_engine import VllmEngine
from lite_huatuo.training.watch import WatchState
from lite_huatuo.verifier import choose
from lite_huatuo.verifier.base import Verifier


@dataclass
class State:
    """What a checkpoint remembers beside tensors: updates done, the best evaluation so far, what the watch has seen."""

    update: int = 0
    best_update: int = 0
    best_score: float | None = None
    watch: WatchState = field(default_factory=WatchState)


@dataclass
class Stage:
    """Everything one PPO run works with."""

    settings: PPO
    run: RunDir
    progress: Progress
    shared: SharedBase
    learner: Learner
    verifier: Verifier
    second: Verifier | None
    engine: VllmEngine | None  # None: the base writes its replies itself
    problems: list[VerifiableProblem]
    selection: list[VerifiableProblem]
    heldout: list[VerifiableProblem]
    too_long: int  # problems left out
    limits: dict[str, int]
    rows: int  # replies that a rollout writes at once, by the base itself
    least_judged_share: float
    log: trackers.Log
    state: State
    processes: Processes
    stop: Stop
    torn: bool = False  # in the middle of what cannot be gone on with
    saved: int | None = None  # the update of the newest checkpoint, where it is known

    @property
    def sampled(self) -> bool:
        """Whether the log-probabilities of the sampling itself are used: they are exact where the base is float32."""
        asked = self.settings.rollout.logprobs
        if self.engine is not None and asked == "auto":
            return False
        return self.shared.exact if asked == "auto" else asked == "sampled"

    @property
    def updates(self) -> int:
        """Updates in all."""
        return self.settings.updates


def assemble(
    recipe: Recipe,
    run: RunDir,
    progress: Progress,
    start: Path,
    processes: Processes = ALONE,
    stop: Stop | None = None,
) -> Stage:
    """Load data, base and verifiers; actor, critic and reference begin as the SFT adapter in the folder `start`."""
    data = inputs.read(**recipe.input_arguments())
    run.remember("ppo/data.json", inputs.facts(data, "problems", "selection", "heldout"))
    by_vllm = recipe.ppo.rollout.engine == "vllm"
    loaded = run_base.load(
        run,
        first=True,
        **recipe.base.model_dump(),
        **recipe.placement(processes),
        vllm_rank=recipe.adapter.rank if by_vllm else None,
    )
    judges = [section.model_dump() for section in (recipe.verifier, recipe.ppo.watch.verifier) if section is not None]
    adapters = {"reference": start, "actor": start, "critic": start, **choose.adapters(*judges)}
    shared = SharedBase.from_adapters(loaded, adapters, ("actor", "critic"))
    verifier, *second = [choose.make(section, shared=shared, processes=processes) for section in judges]
    if recipe.ppo.gradient_checkpointing:
        shared.enable_checkpointing()
    problems = inputs.askable(data.problems, shared.tokenizer, recipe.data.max_query_length)
    engine = _engine(recipe, loaded) if by_vllm else None
    rows = row_count.of_stage(recipe, run, "ppo", shared, processes)
    return Stage(
        settings=recipe.ppo,
        run=run,
        progress=progress,
        shared=shared,
        learner=_learner(recipe.ppo, shared, processes),
        verifier=verifier,
        second=second[0] if second else None,
        engine=engine,
        problems=problems,
        selection=data.selection,
        heldout=data.heldout,
        too_long=len(data.problems) - len(problems),
        limits=recipe.heldout_arguments(rows),
        rows=recipe.rollout_rows(rows),
        least_judged_share=recipe.verifier.least_judged_share,
        log=trackers.Log(recipe.report_to if processes.main else (), run.path / "ppo"),
        state=State(),
        processes=processes,
        stop=stop or Stop(),
    )


def takes_best(stage: Stage) -> bool:
    """Whether the recipe asks for the best policy, and that is an earlier one than the last."""
    state = stage.state
    return stage.settings.select_best and state.best_score is not None and state.best_update != stage.updates


def best(stage: Stage) -> Path:
    """Return the folder of the best policy so far; one folder per update, so that a resumed run finds its own."""
    return stage.run.stage("ppo") / "best" / f"update-{stage.state.best_update:06d}"


def _engine(recipe: Recipe, loaded: backends.LoadedBase) -> VllmEngine:
    base = recipe.base
    dtype = str(backends.torch_dtype(base.compute_dtype)).removeprefix("torch.")
    return VllmEngine.open(
        loaded,
        quantization=base.quantization,
        dtype=dtype,
        max_length=base.max_length,
        rank=recipe.adapter.rank,
        seed=recipe.ppo.seed,
    )


def trunk_layers(settings: PPO, shared: SharedBase) -> int | None:
    """Return the number of the critic's own layers where it stands on the reference's trunk, else None."""
    if settings.critic.trunk == "own":
        return None
    layers = len(shared.body.layers)
    if not shared.packs:
        raise BackendError(
            "ppo.critic.trunk: reference needs a base that packs; set base.backend plain, attention sdpa"
        )
    if settings.critic.layers >= layers:
        raise BackendError(f"ppo.critic.layers: {settings.critic.layers} of {layers} layers leave no trunk; set fewer")
    return settings.critic.layers


def _learner(settings: PPO, shared: SharedBase, processes: Processes) -> Learner:
    """Build value head and optimisers."""
    critic_rate = settings.critic_learning_rate or settings.learning_rate
    return Learner(
        shared,
        ValueHead(shared.hidden_size).to(shared.device),
        Coefficients(
            temperature=settings.rollout.temperature,
            clip_range=settings.clip_range,
            value_clip_range=settings.value_clip_range,
            value_coef=settings.value_coef,
            entropy_coef=settings.entropy_coef,
            max_grad_norm=settings.max_grad_norm,
            microbatch_tokens=settings.microbatch_tokens,
            trunk_layers=trunk_layers(settings, shared),
        ),
        optimizer=settings.optimizer,
        learning_rate=settings.learning_rate,
        critic_learning_rate=critic_rate,
        value_head_learning_rate=settings.value_head_learning_rate or critic_rate,
        weight_decay=settings.weight_decay,
        processes=processes,
    )
