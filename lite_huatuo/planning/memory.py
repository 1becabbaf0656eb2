"""What each thing in memory takes, in bytes: the base, adapters, optimisers, activations, logits, the cache.

Every formula counts tensors of the code that makes them, and names it; docs/planning.md says how it was checked. T is
the number of tokens that go through the network in one pass, c the bytes of a number in the compute dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

from lite_huatuo.planning.models import Lora, Shape

FLOAT = 4  # bytes; adapters, their gradients and AdamW's states are float32 whatever the base computes in
NF4_BLOCK, NESTED_BLOCK = 64, 256  # numbers that share a quantisation constant; constants that share one of their own
NF4_CODE, NESTED_CODE, NESTED_OFFSET = 16 * FLOAT, 256 * FLOAT, FLOAT  # tables kept with every 4-bit weight
SMALL_TENSOR, OPTIMIZER_BLOCK = 4096, 256  # bitsandbytes keeps 8-bit states for tensors of that many numbers and more
LOGITS_AT_ONCE = 2**23  # training.logprobs.CHUNK_NUMBERS
SFT_TILE_TOKENS, SFT_TILE_WORDS = 4096, 32768  # logits that TRL's fused head has at once: tokens, by words
SFT_TILE_TOKENS_ON_CPU = 128  # training.sft.TILE_TOKENS
QUANTISED, PLAIN = "base, 4 bit", "base, not quantised"  # what the parts of the base are called


@dataclass(frozen=True)
class Numbers:
    """How the base computes: `width` bytes a number; `quantization` nf4 or none."""

    width: int
    quantization: str = "nf4"
    double_quantization: bool = True
    keep_dequantised: bool = False


def quantised(weights: int, *, double: bool) -> int:
    """Return what bitsandbytes' NF4 makes of one weight matrix: packed numbers, block constants and tables."""
    blocks = -(-weights // NF4_BLOCK)
    packed = -(-weights // 2) + NF4_CODE
    if not double:
        return packed + FLOAT * blocks
    return packed + blocks + FLOAT * -(-blocks // NESTED_BLOCK) + NESTED_CODE + NESTED_OFFSET


def base(shape: Shape, numbers: Numbers) -> dict[str, int]:
    """Return the bytes of the frozen base by part."""
    linears = shape.linears.values()
    parts = {PLAIN: shape.other_weights * numbers.width}
    if numbers.quantization == "none":
        parts[PLAIN] += shape.linear_weights * numbers.width
        return parts
    each = [quantised(linear.weights, double=numbers.double_quantization) for linear in linears]
    packed = shape.layers * sum(-(-linear.weights // 2) for linear in linears)
    parts = {QUANTISED: packed, "quantisation constants": shape.layers * sum(each) - packed, **parts}
    if numbers.keep_dequantised:
        parts["base, kept dequantised"] = shape.linear_weights * numbers.width
    return parts


def adapter(lora: Lora, shape: Shape) -> int:
    """Return the bytes of one adapter, float32."""
    return FLOAT * lora.parameters(shape)


def optimizer(name: str, lora: Lora, shape: Shape, layers: int | None = None) -> int:
    """Return the bytes of an optimiser's states for the adapter of all layers, or of `layers` of them."""
    count = shape.layers if layers is None else layers
    if name == "adamw":
        return 2 * FLOAT * lora.parameters(shape, count)
    large = [n for n in lora.tensors(shape) if n >= SMALL_TENSOR]
    small = sum(lora.tensors(shape)) - sum(large)
    constants = sum(-(-n // OPTIMIZER_BLOCK) for n in large)
    return count * 2 * (sum(large) + FLOAT * (constants + small))


def layer_kept(shape: Shape, lora: Lora, width: int, *, autocast: bool = False, packed: bool = True) -> int:
    """Return the bytes a token that one decoder layer keeps for its backward.

    Inputs of both norms (in float32), inputs of every layer with an adapter (float32, shared where the base computes
    in float32; under `autocast` in 16 bit), their rank-r products, queries, keys, values, the attention's output and
    log-sums, and the MLP's gate before and after its activation and the other factor. `packed`: several sequences in
    a pass, whose attention outputs are joined in a tensor of its own.
    """
    h, attention, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 2 * FLOAT * (h + 1)
    projections = width * (2 * attention + 2 * kv) + FLOAT * shape.heads
    if shape.head_norms:  # queries and keys before their norms
        projections += FLOAT * (attention + kv)
    targets = set(lora.targets)
    kept = width if autocast or width == FLOAT else FLOAT
    ranks = len(lora.targets) * lora.rank * kept
    mlp = width * 3 * shape.intermediate
    if width == FLOAT:  # an adapter reads what the base reads
        inputs = h * bool(targets & {"q_proj", "k_proj", "v_proj"}) + h * bool(targets & {"gate_proj", "up_proj"})
        inputs += (attention if packed else 0) * ("o_proj" in targets) + shape.intermediate * ("down_proj" in targets)
    else:  # every adapter has a copy of its own
        inputs = sum(shape.linears[name].inputs for name in lora.targets)
    return norms + projections + kept * inputs + ranks + mlp


def rotary(shape: Shape, width: int) -> int:
    """Return the bytes a token of the cosines and sines that all layers share."""
    return 2 * shape.head_dim * width


def largest_weight(shape: Shape, numbers: Numbers) -> int:
    """Return the bytes of the largest matrix that is dequantised for a product, 0 where none is."""
    if numbers.quantization == "none" or numbers.keep_dequantised:
        return 0
    return numbers.width * max(linear.weights for linear in shape.linears.values())


def passing(shape: Shape, lora: Lora, numbers: Numbers, tokens: int) -> int:
    """Return the most that a pass without gradients has in hand: in the MLP, beside the residual stream."""
    width, adapted = numbers.width, bool({"gate_proj", "up_proj"} & set(lora.targets))
    stream = 4 * shape.hidden * width + (0 if width == FLOAT else FLOAT * shape.hidden) + rotary(shape, width)
    # the gate, and of the other factor: base's product, adapter's product twice (scaled), the former in 16 bit maybe
    factors = 2 * width + (2 * FLOAT if adapted else width)
    weight = largest_weight(shape, numbers)
    mlp = max(factors * shape.intermediate * tokens, 2 * width * shape.intermediate * tokens + weight)
    return stream * tokens + mlp


@dataclass(frozen=True)
class Learning:
    """Bytes of one forward and backward pass: kept for backward, in hand beside it, logits at their peak."""

    activations: int
    working: int
    logits: int


def learning(
    shape: Shape,
    lora: Lora,
    numbers: Numbers,
    *,
    tokens: int,
    checkpointing: bool,
    logits: int,
    packed: bool = True,
    autocast: bool = False,
    layers: int | None = None,
) -> Learning:
    """Return what a training pass of `tokens` tokens takes at its peak.

    `logits` bytes exist at the end of forward, when nothing but the kept activations is there. `layers`: only that
    many run (a critic on a trunk). The peak is either there or in the backward of a layer's MLP.
    """
    width, h, depth = numbers.width, shape.hidden, shape.layers if layers is None else layers
    layer = layer_kept(shape, lora, width, autocast=autocast, packed=packed)
    shared = rotary(shape, width)
    backward = (2 * FLOAT if width == FLOAT else 2 * width + FLOAT) * shape.intermediate * tokens
    in_hand = max(backward, width * shape.intermediate * tokens + largest_weight(shape, numbers)) + width * h * tokens
    if checkpointing:  # a layer's own input, where kept in float32, is the checkpoint
        kept = (depth * h * width + shared) * tokens
        in_hand += (layer - (FLOAT * h if width == FLOAT else 0)) * tokens
    else:
        kept = (depth * layer + shared) * tokens
    at_the_end = logits + 2 * width * h * tokens  # the output and the final norm's input
    if at_the_end > in_hand:
        return Learning(kept, 2 * width * h * tokens, logits)
    return Learning(kept, in_hand, 0)


def ppo_logits(shape: Shape, width: int, reply_tokens: int, *, gradient: bool) -> int:
    """Return the bytes of `training.logprobs.token_logprobs`: float32 copies of a chunk, and the hidden states.

    Two copies; in backward three where there are several chunks, for the last one's is still there.
    """
    rows = min(reply_tokens, max(1, LOGITS_AT_ONCE // shape.vocabulary))
    copies = (3 if gradient and reply_tokens > rows else 2) * FLOAT + (0 if width == FLOAT else width)
    return copies * rows * shape.vocabulary + (2 if gradient else 1) * reply_tokens * shape.hidden * width


def sft_logits(shape: Shape, width: int, tokens: int, *, gpu: bool) -> int:
    """Return the bytes of the fused head of TRL 1.15 and later: one tile of logits, and the hidden states.

    Triton's kernels turn a tile into its gradient in place; without them backward makes eight float32 copies of it and
    a quarter. The hidden states: those learned from, their gradient in float32, and that in the compute dtype.
    """
    rows = min(tokens, SFT_TILE_TOKENS if gpu else SFT_TILE_TOKENS_ON_CPU)
    tile = rows * min(shape.vocabulary, SFT_TILE_WORDS)
    copies = width * tile if gpu else 33 * tile + (0 if width == FLOAT else width * tile)
    return copies + (2 * width + FLOAT) * tokens * shape.hidden


def room(longest_query: int, reply: int) -> int:
    """Return how long `models.slots.Slots` has grown when a row of the longest query and reply is done."""
    held = longest_query + min(reply, 64)
    while held < longest_query + reply - 1:  # the last token is not read
        held = max(held + 1, held * 3 // 2)
    return held


def cache(shape: Shape, width: int, *, rows: int, room: int) -> int:
    """Return the bytes of `rows` slots of keys and values in all layers."""
    return 2 * shape.layers * rows * shape.kv_heads * shape.head_dim * room * width


def growing(shape: Shape, width: int, *, rows: int, room: int) -> int:
    """Return what growing the cache takes beside it: one layer's keys, old and new at once."""
    return cache(shape, width, rows=rows, room=room) // (2 * shape.layers)


def sampling(shape: Shape, numbers: Numbers, *, rows: int, top_p: float) -> int:
    """Return what a decoding step has in hand: a dequantised weight, or log-probabilities, weights and their sums."""
    each = 2 * FLOAT + 8 + (16 if top_p < 1 else 0)  # sums in float64; a cut sorts them
    return max(largest_weight(shape, numbers), each * rows * shape.vocabulary)
