"""The numbers of a transformer that memory depends on, read from its config.json, and what can be counted from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lite_huatuo.errors import BackendError

# model_type -> what its layers have beside those of a Llama; all have a gated MLP, RMS norms and full attention
FAMILIES: dict[str, dict[str, bool]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"head_norms": True},
}
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
LINEARS = (*ATTENTION, *MLP)


@dataclass(frozen=True)
class Linear:
    """One linear layer: its sizes, and whether it has a bias."""

    inputs: int
    outputs: int
    bias: bool

    @property
    def weights(self) -> int:
        """Numbers in the weight matrix."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Shape:
    """A decoder: `layers` layers of attention and a gated MLP. `tied`: lm_head is the embedding matrix."""

    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False

    @property
    def linears(self) -> dict[str, Linear]:
        """The linear layers of one decoder layer."""
        attention, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": Linear(self.hidden, attention, self.qkv_bias),
            "k_proj": Linear(self.hidden, kv, self.qkv_bias),
            "v_proj": Linear(self.hidden, kv, self.qkv_bias),
            "o_proj": Linear(attention, self.hidden, self.o_bias),
            "gate_proj": Linear(self.hidden, self.intermediate, self.mlp_bias),
            "up_proj": Linear(self.hidden, self.intermediate, self.mlp_bias),
            "down_proj": Linear(self.intermediate, self.hidden, self.mlp_bias),
        }

    @property
    def linear_weights(self) -> int:
        """Numbers in the weights of all layers' linear layers, which are those that are quantised."""
        return self.layers * sum(linear.weights for linear in self.linears.values())

    @property
    def other_weights(self) -> int:
        """Numbers that stay in 16 or 32 bit: embeddings, lm_head, norms, biases."""
        biases = sum(linear.outputs for linear in self.linears.values() if linear.bias)
        norms = 2 * self.hidden + (2 * self.head_dim if self.head_norms else 0)
        matrices = (1 if self.tied else 2) * self.vocabulary * self.hidden
        return matrices + self.layers * (biases + norms) + self.hidden

    @property
    def parameters(self) -> int:
        """Parameters in all."""
        return self.linear_weights + self.other_weights


@dataclass(frozen=True)
class Lora:
    """An adapter's form: rank, which of `LINEARS` have one, and DoRA's magnitudes."""

    rank: int
    targets: tuple[str, ...]
    dora: bool = False

    def tensors(self, shape: Shape) -> Iterator[int]:
        """Yield how many numbers each tensor of one decoder layer's adapter has."""
        for name in self.targets:
            linear = shape.linears[name]
            yield self.rank * linear.inputs
            yield self.rank * linear.outputs
            if self.dora:
                yield linear.outputs

    def parameters(self, shape: Shape, layers: int | None = None) -> int:
        """Return the parameters of an adapter on all layers, or on `layers` of them."""
        return (shape.layers if layers is None else layers) * sum(self.tensors(shape))


def lora(rank: int, targets: str | Sequence[str], *, dora: bool = False) -> Lora:
    """Return the form of a recipe's `adapter` section; BackendError for a target that such a decoder lacks."""
    names = LINEARS if targets == "all-linear" else (targets,) if isinstance(targets, str) else tuple(targets)
    unknown = [name for name in names if name not in LINEARS]
    if unknown:
        raise BackendError(
            f"adapter.targets: {unknown[0]}: memory is predicted for all-linear or a list of {', '.join(LINEARS)}"
        )
    return Lora(rank, tuple(name for name in LINEARS if name in names), dora)


def from_config(config: Mapping[str, Any], where: str) -> Shape:
    """Return the shape of a transformers config.json; BackendError for another kind of network or missing numbers."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise BackendError(
            f"{where}: model_type {family}: memory can be predicted for {', '.join(sorted(FAMILIES))}; "
            "to know it for another one, train with a small data.problems_limit and read memory/* in metrics.jsonl"
        )
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return Shape(
            family=family,
            hidden=hidden,
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            intermediate=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=FAMILIES[family].get("qkv_bias", bool(config.get("attention_bias", False))),
            o_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
            head_norms=FAMILIES[family].get("head_norms", False),
        )
    except KeyError as error:
        raise BackendError(f"{where}: no {error.args[0]}; give the config.json of a whole model") from None
    except (TypeError, ValueError) as error:
        raise BackendError(f"{where}: not a model's config.json ({error})") from None
