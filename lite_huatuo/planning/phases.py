"""The peak of memory in each phase of a run, by component, as training goes through them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lite_huatuo.planning import memory
from lite_huatuo.planning.memory import FLOAT, PLAIN, QUANTISED, Numbers
from lite_huatuo.planning.models import Lora, Shape

CONTEXT = 2**30  # CUDA's context, libraries' kernels and workspaces on each card: an estimate
FRAGMENTATION = 0.10  # of what comes and goes, lost between blocks of the allocator: an estimate
PYTHON = 700 * 2**20  # Python with its libraries loaded, where main memory is what counts; measured
READ_TOKENS = 4096  # training.decoding.READ_TOKENS
COPIES = 4  # of a tensor while it is merged and checked
FIXED_ROWS = 16  # replies written at once by "auto" where free memory is not asked for: on a CPU
KEPT_FREE = 0.13  # of a card's memory, which "auto" leaves for what a prediction does not know
ROWS_STEP = 8  # "auto" takes multiples of it: a few megabytes more or less then change nothing. What a recipe needs at
# least is told with so many
# parts that are there before the first reply is written
LOADED = {
    *(PLAIN, QUANTISED, "quantisation constants", "base, kept dequantised"),
    *("adapters", "judge", "CUDA context"),
}


@dataclass(frozen=True)
class Settings:
    """What memory depends on beside the shape, as in a recipe. `verifiers`: adapters that judge, on the same base."""

    gpu: bool  # else a CPU
    numbers: Numbers
    lora: Lora
    max_length: int
    query: int
    reply: int
    sft_rows: int  # examples in a forward pass
    sft_optimizer: str
    sft_checkpointing: bool
    autocast: bool  # SFT in mixed precision
    episodes: int
    minibatches: int
    generated: int  # replies written at once, the larger of rollout and evaluation
    top_p: float
    microbatch_tokens: int
    ppo_optimizer: str
    ppo_checkpointing: bool
    trunk_layers: int | None
    verifiers: int = 0
    judge: int = 0  # bytes of a verifier with a network of its own


@dataclass(frozen=True)
class Phase:
    """The peak of one phase. `parts` are bytes by component; `coming` names those that come and go."""

    name: str
    parts: dict[str, int]
    coming: frozenset[str] = field(default_factory=frozenset)

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())


def phases(shape: Shape, settings: Settings) -> list[Phase]:
    """Return load, SFT, rollout, scoring, update and export without what the device itself takes."""
    return [
        _load(shape, settings),
        _sft(shape, settings),
        _rollout(shape, settings),
        _scoring(shape, settings),
        _update(shape, settings),
        _export(shape, settings),
    ]


def on_card(phase: Phase, shape: Shape, *, cards: int, strategy: str, gpu: bool, held: bool = False) -> Phase:
    """Return what one card (of `cards` that share by `strategy`) holds, with what the device itself takes.

    ddp: each holds everything. fsdp2: the layers' weights are sharded, with two layers of them in hand, the one at
    work and the one that is gathered meanwhile, or all of them where they are `held`.
    """
    parts = dict(phase.parts)
    if cards > 1 and strategy == "fsdp2":
        name, weights = layers(parts, shape)
        parts[name] -= weights - -(-weights // cards)
        parts["gathered layers"] = weights if held else 2 * weights // shape.layers
    if gpu:
        parts["fragmentation"] = round(FRAGMENTATION * sum(parts.get(name, 0) for name in phase.coming))
        parts["CUDA context"] = CONTEXT
    else:
        parts["file, while it is read"] = 2 * shape.parameters if phase.name == "load" else 0
        parts["Python and libraries"] = PYTHON
    return Phase(phase.name, {name: size for name, size in parts.items() if size}, phase.coming)


def loaded(shape: Shape, s: Settings, *, cards: int, strategy: str) -> int:
    """Return the bytes on each card before the first reply is written."""
    return sum(_rollout_parts(shape, s, cards=cards, strategy=strategy, there=True))


def free_for_rows(free: int, total: int) -> int:
    """Return what replies may take of a card's free bytes: a share of all it has is left alone."""
    return free - round(KEPT_FREE * total)


def rows(shape: Shape, s: Settings, free: int, *, cards: int = 1, strategy: str = "ddp") -> int:
    """Return how many replies "auto" writes at once on a card with so many bytes free once base, adapters and judge are
    loaded: as many as fit at their longest, beside optimisers that are still to come; one at least, an update's
    episodes at most. Sharded layers are to be held through a rollout if that leaves room for a few rows."""

    def most(held: bool) -> int:
        count = s.episodes
        while count > 1 and sum(coming(count, held)) > free:
            count = count - (count % ROWS_STEP or ROWS_STEP) if count > ROWS_STEP else count - 1
        return count

    def coming(count: int, held: bool) -> list[int]:
        tried = replace(s, generated=count)
        return _rollout_parts(shape, tried, cards=cards, strategy=strategy, there=False, held=held)

    if cards > 1 and strategy == "fsdp2" and (count := most(held=True)) >= ROWS_STEP:
        return count
    return most(held=False)


def _rollout_parts(
    shape: Shape, s: Settings, *, cards: int, strategy: str, there: bool, held: bool = False
) -> list[int]:
    """Return the bytes of a rollout's parts that are there before it, or of those that are not."""
    phase = on_card(_rollout(shape, s), shape, cards=cards, strategy=strategy, gpu=True, held=held)
    return [size for name, size in phase.parts.items() if (name in LOADED) is there]


def layers(parts: Mapping[str, int], shape: Shape) -> tuple[str, int]:
    """Return the part of the base that the layers' weights are in, and their bytes."""
    if QUANTISED in parts:
        return QUANTISED, parts[QUANTISED]
    return PLAIN, parts[PLAIN] * shape.linear_weights // (shape.linear_weights + shape.other_weights)


def _load(shape: Shape, s: Settings) -> Phase:
    """The base, and a matrix in 16 or 32 bit while it is quantised."""
    weight = max(linear.weights for linear in shape.linears.values()) * s.numbers.width
    return _phase("load", memory.base(shape, s.numbers), {"working memory": 2 * weight})


def _sft(shape: Shape, s: Settings) -> Phase:
    """The actor's adapter, its gradients and optimiser, and a pass of the longest examples."""
    one = memory.adapter(s.lora, shape)
    tokens = s.sft_rows * s.max_length
    pass_ = memory.learning(
        shape,
        s.lora,
        s.numbers,
        tokens=tokens,
        checkpointing=s.sft_checkpointing,
        logits=memory.sft_logits(shape, s.numbers.width, tokens, gpu=s.gpu),
        packed=s.sft_rows > 1,
        autocast=s.autocast,
    )
    standing = {
        **memory.base(shape, s.numbers),
        "adapters": (1 + s.verifiers) * one,
        "gradients": one,
        "optimiser": memory.optimizer(s.sft_optimizer, s.lora, shape),
        "judge": s.judge,
    }
    return _phase("SFT", standing, _coming(pass_))


def _standing(shape: Shape, s: Settings) -> dict[str, int]:
    """What is there in all of PPO: base, three adapters and more, both optimisers, the trunk of a rollout."""
    return {
        **memory.base(shape, s.numbers),
        "adapters": (3 + s.verifiers) * memory.adapter(s.lora, shape),
        "optimiser": memory.optimizer(s.ppo_optimizer, s.lora, shape)
        + memory.optimizer(s.ppo_optimizer, s.lora, shape, s.trunk_layers),
        "judge": s.judge,
    }


def _rollout(shape: Shape, s: Settings) -> Phase:
    """The cache of all rows at their longest, and a step of writing, or the reading of queries."""
    width, room = s.numbers.width, memory.room(s.query, s.reply)
    read = memory.passing(shape, s.lora, s.numbers, min(max(READ_TOKENS, s.query), s.generated * s.query))
    write = memory.sampling(shape, s.numbers, rows=s.generated, top_p=s.top_p)
    write += memory.growing(shape, width, rows=s.generated, room=room)
    coming = {
        "cache of keys and values": memory.cache(shape, width, rows=s.generated, room=room),
        "working memory": max(read, write),
    }
    return _phase("rollout", _standing(shape, s), coming)


def trunk(shape: Shape, s: Settings) -> int:
    """Return the bytes of what goes into the critic's layers, for all episodes; kept in main memory."""
    return 0 if s.trunk_layers is None else s.episodes * (s.query + s.reply) * shape.hidden * s.numbers.width


def _microbatch(s: Settings, episodes: int) -> tuple[int, int]:
    """Return (tokens, reply tokens) of the largest pass over some episodes; a row longer than the budget goes alone."""
    row = s.query + s.reply
    tokens = min(max(s.microbatch_tokens // row, 1), episodes) * row
    return tokens, tokens * s.reply // row


def _scoring(shape: Shape, s: Settings) -> Phase:
    """A pass without gradients, then its log-probabilities."""
    tokens, reply_tokens = _microbatch(s, s.episodes)
    width = s.numbers.width
    logits = memory.ppo_logits(shape, width, reply_tokens, gradient=False) + tokens * shape.hidden * width
    in_hand = max(memory.passing(shape, s.lora, s.numbers, tokens), logits)
    kept = 0 if s.trunk_layers is None else tokens * shape.hidden * width
    return _phase("scoring", _standing(shape, s), {"working memory": in_hand + kept})


def _update(shape: Shape, s: Settings) -> Phase:
    """Gradients of actor and critic, and the larger of their passes; the actor's comes first."""
    one = memory.adapter(s.lora, shape)
    tokens, reply_tokens = _microbatch(s, -(-s.episodes // s.minibatches))
    packed = tokens > s.query + s.reply
    width, layers = s.numbers.width, s.trunk_layers

    def pass_(logits: int, layers: int | None) -> memory.Learning:
        return memory.learning(
            shape,
            s.lora,
            s.numbers,
            tokens=tokens,
            checkpointing=s.ppo_checkpointing,
            logits=logits,
            packed=packed,
            layers=layers,
        )

    actor = _coming(pass_(memory.ppo_logits(shape, width, reply_tokens, gradient=True), None))
    critic = _coming(pass_(0, layers))
    if layers is not None:
        critic["working memory"] += tokens * shape.hidden * width
    standing = {
        **_standing(shape, s),
        "gradients": one + FLOAT * s.lora.parameters(shape, layers),
    }
    return _phase("update", standing, max(actor, critic, key=lambda parts: sum(parts.values())))


def _export(shape: Shape, s: Settings) -> Phase:
    """The merge, tensor by tensor in main memory (export.merge): some float32 copies of the largest one."""
    weight = max(linear.weights for linear in shape.linears.values())
    return _phase("export", {"adapters": memory.adapter(s.lora, shape)}, {"working memory": COPIES * FLOAT * weight})


def _coming(pass_: memory.Learning) -> dict[str, int]:
    return {"activations": pass_.activations, "working memory": pass_.working, "logits": pass_.logits}


def _phase(name: str, standing: dict[str, int], coming: dict[str, int]) -> Phase:
    parts = {part: size for part, size in {**standing, **coming}.items() if size}
    return Phase(name, parts, frozenset(coming))
