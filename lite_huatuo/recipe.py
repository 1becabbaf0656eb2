"""Recipes: the typed schema, loading by name or path, `--set` overrides, and all problems told at once.

The defaults of `ppo` and `sft` are the paper's (HuatuoGPT-o1, arXiv 2412.18925, and its published code) except where a
comment admits a departure.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from lite_huatuo import schema
from lite_huatuo.processes import Processes
from lite_huatuo.schema import Section

FOLDER = "lite_huatuo.recipes"  # the package of the shipped ones
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
CountOrAuto = Count | Literal["auto"]


class Base(Section):
    """The frozen network under all adapters."""

    model: str  # Hub id, local folder, a .gguf file, or package:<python package>/<file>.gguf
    fallback: str | None = None  # used where `model` names a package that is not installed
    revision: str | None = None  # Hub commit, tag or branch
    quantization: Literal["nf4", "none"] = "nf4"
    double_quantization: bool = True
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: float32 on CPU, else 16 bit
    keep_dequantised: bool = False  # CPU only: float32 copies beside the 4-bit weights; same numbers, faster
    backend: Literal["auto", "plain", "unsloth"] = "auto"  # auto: plain; no card has proved unsloth here yet
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    chat_template: str | None = None  # a Jinja file; required where the model has no template
    max_length: Count = 2048  # tokens of query + reply


class Adapter(Section):
    """LoRA, the same shape for every adapter. Dropout is 0: PPO compares the same policy with itself."""

    rank: Count = 16
    alpha: Count = 32
    targets: str | list[str] = "all-linear"
    rslora: bool = False
    dora: bool = False


class Data(Section):
    """Where the examples and problems come from: shipped:<name>, a .json/.jsonl file, or a Hub data set id."""

    sft: str
    problems: str
    heldout: str | None = None  # problems for evaluation while training; None takes `heldout_share` of `problems`
    heldout_share: Share = 0.05
    sft_limit: Count | None = None
    problems_limit: Count | None = None
    heldout_limit: Count | None = None
    sft_eval_share: Share = 0.05  # share of the SFT examples kept for the evaluation loss
    too_long: Literal["drop", "cut"] = "drop"  # cut shortens the complex CoT, so that the form and the stop stay
    max_query_length: Count = 512  # tokens; longer questions are dropped and counted
    seed: int = 42
    mix: dict[str, CountOrNone] = Field(default_factory=dict)  # composition by kind, for `data mix`


# Keys without which a verifier of that kind cannot be made.
VERIFIER_NEEDS = {
    "exact": (),
    "api": ("profile",),
    "classifier": ("model", "template"),
    "adapter": ("adapter",),
    "ensemble": ("members",),
}


class VerifierSection(Section):
    """Who judges the final response. A key whose comment begins with a kind is read for that kind only."""

    kind: Literal["exact", "api", "classifier", "adapter", "ensemble"] = "exact"
    profile: str | None = None  # api: a model profile, shipped or a YAML file
    store: str = "requests.sqlite"  # api: keeps every verdict, so that none is paid for twice
    budget: NotNegative | None = None  # api: dollars, a hard stop for all the store has paid; null: no limit
    form: Literal["schema", "word"] = "schema"  # api: the judge replies {"correct": …}, or one word
    model: str | None = None  # classifier: Hub id or folder
    revision: str | None = None  # classifier: Hub commit, tag or branch
    quantization: Literal["nf4", "none"] = "none"  # classifier
    template: str | None = None  # classifier: its input, with {question}, {response}, {ground_truth} to be filled in
    label: CountOrNone = 1  # classifier: index of the label that means right
    adapter: str | None = None  # adapter: folder of a LoRA that judges, on the student's own base
    members: list[VerifierSection] = Field(default_factory=list)  # ensemble: verifiers, each like this section
    mode: Literal["agree", "any", "weighted"] = "agree"  # ensemble: right where all, one, or their weighted mean say so
    weights: list[Positive] = Field(default_factory=list)  # ensemble, weighted: one per member; empty: equal
    threshold: Share = 0.4  # P(correct) above which a verdict is right; published code
    accept_at: Share = 0.9  # accuracy `verifier check` must reach before PPO starts
    least_judged_share: Share = 0.8  # share of an update's episodes that must get a verdict, else PPO stops

    @model_validator(mode="after")
    def _complete(self) -> VerifierSection:
        missing = [key for key in VERIFIER_NEEDS[self.kind] if not getattr(self, key)]
        if missing:
            raise ValueError(f"verifier.{missing[0]}: missing; kind {self.kind} needs {' and '.join(missing)}")
        if self.weights and len(self.weights) != len(self.members):
            raise ValueError(f"verifier.weights: {len(self.weights)} for {len(self.members)} members; give one each")
        return self


class SFT(Section):
    """Stage 1."""

    epochs: Positive = 3.0  # paper
    batch_size: Count = 128  # examples per optimizer step; paper
    microbatch_size: Count = 2
    learning_rate: Positive = 1e-4  # departure: LoRA wants more than the full-parameter 5e-6 of the published code
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup_ratio: Share = 0.05  # published code
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0
    optimizer: Literal["adamw", "paged_adamw_8bit"] = "adamw"
    packing: Literal["auto", "on", "off"] = "auto"  # auto: end to end, no padding; on: filled up to max_length, too
    gradient_checkpointing: bool = True
    log_every: Count = 1
    eval_every: Count = 50
    save_every: Count = 50
    keep_checkpoints: Count = 2
    early_checkpoints: list[Count] = Field(default_factory=list)  # steps whose adapter is kept under sft/early/
    seed: int = 42


class Rollout(Section):
    """How replies are sampled."""

    episodes: Count = 128  # per update; the paper's batch
    temperature: Positive = 0.5  # published code
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_reply_length: Count = 1300  # tokens; published code
    batch_size: CountOrAuto = "auto"  # replies written at once; auto: as many as fit beside the base, 16 on a CPU
    engine: Literal["auto", "vllm"] = "auto"  # who writes: the base itself, or vLLM on the same card
    logprobs: Literal["auto", "sampled", "recomputed"] = "auto"  # sampled saves a pass; auto: in float32
    weight_cap: Positive = 2.0  # of importance weights, where the sampler's log-probabilities differ from the actor's


class Critic(Section):
    """What the critic's adapter is made of."""

    trunk: Literal["own", "reference"] = "own"  # reference: its lower layers are the reference's, run once a rollout
    layers: Count = 8  # reference: the layers on top that are the critic's own


class Watch(Section):
    """Signs of a policy that pleases its verifier instead of being right; a limit that is null is not watched."""

    patience: Count = 3  # updates in a row beyond a limit before the run stops; before that it warns
    verifier: VerifierSection | None = None  # a second, different judge; null: no gap is measured
    episodes: Count = 32  # of each update, shown to the second judge
    gap: NotNegative | None = 0.3  # share right by the first judge minus by the second
    length_ratio: Annotated[float, Field(ge=1)] | None = None  # mean reply length to that of the first 5 updates
    repetition: Share | None = 0.5  # share of 4-token runs that were there before in the reply
    no_form_share: Share | None = 0.9  # replies without a final response
    answer_list_share: Share | None = 0.5  # final responses that list candidates
    kl_per_token: NotNegative | None = None  # nats from the SFT policy
    entropy: NotNegative | None = None  # nats, the least that is allowed


class PPO(Section):
    """Stage 2. Elsewhere: cliprange, lam, vf_coef (TRL); epsilon, lmbda (torchtune); clip_coef (cleanrl)."""

    start_from: str = "final"  # the SFT adapter to start from: final, or early/step-000010
    total_episodes: Count = 20_000  # published code
    rollout: Rollout = Field(default_factory=Rollout)
    critic: Critic = Field(default_factory=Critic)
    epochs: Count = 3  # paper
    minibatches: Count = 1  # optimizer steps per epoch; published code
    microbatch_tokens: Count = 4096  # tokens per forward pass; on unsloth with their padding
    learning_rate: Positive = 5e-6  # departure: ten times the published full-parameter 5e-7, as LoRA wants
    critic_learning_rate: Positive | None = None  # None: `learning_rate`
    value_head_learning_rate: Positive | None = None  # None: the critic's
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: Share = 0.05  # published code
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0
    optimizer: Literal["adamw", "paged_adamw_8bit"] = "adamw"
    kl_coef: NotNegative = 0.03  # paper
    gamma: Share = 1.0  # paper
    gae_lambda: Share = 0.95  # published code
    critic_gae_lambda: Share | None = None  # None: `gae_lambda`; 1.0 is VC-PPO's decoupled GAE (arXiv 2503.01491)
    clip_range: Positive = 0.2  # paper
    value_clip_range: Positive = 0.2  # published code
    value_coef: NotNegative = 1.0  # paper (its code has 0.1)
    entropy_coef: NotNegative = 0.0
    whiten_advantages: bool = True
    critic_warmup_updates: CountOrNone = 0  # updates in which only the critic learns; VC-PPO
    target_kl: Positive | None = None  # stop an update's epochs when approx_kl(old, new) passes this
    truncated: Literal["no_form", "score"] = "no_form"  # a reply cut at max_reply_length: 0.0, or scored like others
    gradient_checkpointing: bool = True
    selection_problems: Count = 64  # taken from the training problems to choose the best checkpoint
    eval_every: Count = 10  # updates
    save_every: Count = 10  # updates
    keep_checkpoints: Count = 2
    sample_every: Count = 5  # updates
    samples: Count = 4  # replies kept each time
    watch: Watch = Field(default_factory=Watch)
    select_best: bool = True  # final adapters are those of the best evaluation
    seed: int = 42

    @property
    def updates(self) -> int:
        """Updates that `total_episodes` make, at least one."""
        return max(1, self.total_episodes // self.rollout.episodes)

    @field_validator("start_from")
    @classmethod
    def _inside_the_run(cls, value: str) -> str:
        if not re.fullmatch(r"final|early/step-\d{6,}", value):
            raise ValueError(f"ppo.start_from: {value[:90]!r} is neither final nor one such as early/step-000010")
        return value


class Eval(Section):
    """Evaluation on the held-out problems, before and after each stage, greedy; and what `eval` does by default."""

    batch_size: CountOrAuto = "auto"  # replies written at once; auto: as in ppo.rollout
    max_reply_length: Count | None = None  # None: that of the rollout
    benchmarks: list[str] = Field(default_factory=list)  # NAME or NAME=FILE, for `eval` without --benchmark


class Export(Section):
    """The merged model."""

    onto: Literal["base", "trained"] = "base"  # the original 16-bit base, or the dequantised 4-bit one
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    max_shard_size: str = "5GB"
    repo: str | None = None  # user/name on the Hub, for `export --push` without a name
    license: str | None = None  # the Hub's id of a licence for the card; null: that of the base, where it is known


class Launch(Section):
    """Processes, one a card, and how they share the work. Under another launcher its number of processes counts."""

    processes: Count = 1
    strategy: Literal["ddp", "fsdp2"] = "ddp"  # the base whole on each card, or its layers sharded over the cards

    @field_validator("strategy", mode="before")
    @classmethod
    def _not_removed(cls, value: Any) -> Any:
        if value == "pipeline":
            raise ValueError("launch.strategy: pipeline was removed; use fsdp2, with launch.processes one a card")
        return value


class Recipe(Section):
    """One student, both stages."""

    name: str
    base: Base
    adapter: Adapter = Field(default_factory=Adapter)
    data: Data
    verifier: VerifierSection = Field(default_factory=VerifierSection)
    sft: SFT = Field(default_factory=SFT)
    ppo: PPO = Field(default_factory=PPO)
    eval: Eval = Field(default_factory=Eval)
    export: Export = Field(default_factory=Export)
    launch: Launch = Field(default_factory=Launch)
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default_factory=list)

    def input_arguments(self) -> dict[str, Any]:
        """Return the arguments of training.inputs.read."""
        chosen = self.data.model_dump(exclude={"sft_eval_share", "too_long", "max_query_length", "mix"})
        return {**chosen, "selection_problems": self.ppo.selection_problems}

    def rollout_rows(self, auto: int) -> int:
        """Return how many replies a rollout writes at once, `auto` where the recipe says so."""
        size = self.ppo.rollout.batch_size
        return auto if size == "auto" else size

    def heldout_arguments(self, auto: int) -> dict[str, int]:
        """Return the limits of training.heldout.evaluate; `auto` replies at once where the recipe says so."""
        return {
            "max_reply_length": self.eval.max_reply_length or self.ppo.rollout.max_reply_length,
            "batch_size": auto if self.eval.batch_size == "auto" else self.eval.batch_size,
        }

    def placement(self, processes: Processes) -> dict[str, Any]:
        """Return where the base goes, as arguments of models.backends.load: one process has all of it on its card."""
        return {"sharded": processes} if self.launch.strategy == "fsdp2" and processes.count > 1 else {}

    @field_validator("name")
    @classmethod
    def _a_file_name(cls, value: str) -> str:
        if not re.fullmatch(r"\w[\w. -]{0,79}", value):
            raise ValueError(
                f"name: {value[:90]!r}: folders and files are called by it; use letters, digits, space, . _ and -"
            )
        return value

    @model_validator(mode="after")
    def _lengths_fit(self) -> Recipe:
        reply, query, total = self.ppo.rollout.max_reply_length, self.data.max_query_length, self.base.max_length
        if query + reply > total:
            raise ValueError(
                f"base.max_length: {total} is less than data.max_query_length {query} + "
                f"ppo.rollout.max_reply_length {reply}; raise it to {query + reply}"
            )
        if self.ppo.rollout.episodes % self.ppo.minibatches:
            raise ValueError(
                f"ppo.minibatches: {self.ppo.minibatches} does not divide ppo.rollout.episodes "
                f"{self.ppo.rollout.episodes}"
            )
        if self.sft.batch_size % self.sft.microbatch_size:
            raise ValueError(
                f"sft.microbatch_size: {self.sft.microbatch_size} does not divide sft.batch_size {self.sft.batch_size}"
            )
        if self.sft.save_every % self.sft.log_every:
            raise ValueError(
                f"sft.save_every: {self.sft.save_every} must be a multiple of sft.log_every "
                f"{self.sft.log_every}, so that a resumed run logs the same lines"
            )
        return self


def names() -> list[str]:
    """Return the names of the shipped recipes."""
    return schema.names(FOLDER)


def text(name_or_path: str) -> tuple[str, str]:
    """Return (where, YAML text) of a shipped recipe or a file."""
    return schema.text(name_or_path, FOLDER, "recipe")


def load(name_or_path: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Load a recipe by shipped name or path, apply `key.path=value` overrides, and check it whole."""
    where, source = text(name_or_path)
    return check(schema.read(source, where, overrides), where)


def check(tree: dict[str, Any], where: str) -> Recipe:
    """Return the typed recipe, or raise one RecipeError that tells every problem with its dotted path."""
    return schema.check(Recipe, tree, where)
