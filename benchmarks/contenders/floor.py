"""The least work a PPO update can take with transformers and peft: the yardstick of benchmarks/ppo_update.py.

One frozen base with the adapters reference, actor and critic. One generation in which finished replies leave the batch;
one pass for each role without gradients; epochs of one forward and backward pass for actor and critic. Episodes stand
one after another in a row, kept apart by the attention mask, so that no pass sees padding; the head sees reply
positions only. Only the queries are padded, in generation. No checks, no figures, no verifier.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import protocol
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, DynamicCache


@dataclass
class Row:
    """Episodes one after another: ids, positions (1, T), mask (1, 1, T, T); `source` (N,) predicts `targets` (N,)."""

    members: list[int]
    replies: list[int]  # their lengths
    ids: Tensor
    positions: Tensor
    mask: Tensor
    source: Tensor
    targets: Tensor


class Network:
    """The base with its adapters and a value head."""

    def __init__(self, folder: str, quantization: str, work: dict[str, Any]) -> None:
        config = None
        if quantization == "nf4":
            config = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.float32,
            )
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", quantization_config=config
        )
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False  # else the first forward repacks the weights, gradients end
        lora = LoraConfig(r=work["rank"], lora_alpha=work["alpha"], target_modules=protocol.LINEAR, lora_dropout=0.0)
        self.peft = get_peft_model(model, lora, adapter_name="actor")
        self.peft.add_adapter("critic", lora)
        self.peft.add_adapter("reference", lora)
        self.body, self.lm_head = model.model, model.lm_head
        self.value_head = torch.nn.Linear(model.config.hidden_size, 1)
        self.layers = [module for module in self.peft.modules() if isinstance(module, BaseTunerLayer)]
        self.parameters = {name: self._own(name) for name in ("actor", "critic")}
        self.peft.requires_grad_(False)
        for parameters in self.parameters.values():
            for parameter in parameters:
                parameter.requires_grad_(True)
        self.parameters["critic"] += list(self.value_head.parameters())
        self.peft.eval()

    def use(self, adapter: str) -> None:
        for layer in self.layers:
            layer._active_adapter = [adapter]  # what set_adapter does, without its walk over all parameters

    def hidden(self, row: Row) -> Tensor:
        """Return the hidden states (N, H) that predict the reply tokens."""
        out = self.body(input_ids=row.ids, position_ids=row.positions, attention_mask=row.mask, use_cache=False)
        return out.last_hidden_state[0, row.source]

    def logprobs(self, row: Row, temperature: float) -> Tensor:
        logits = self.lm_head(self.hidden(row)) / temperature
        return log_softmax(logits, dim=1).gather(1, row.targets.unsqueeze(1)).squeeze(1)

    def values(self, row: Row) -> Tensor:
        return self.value_head(self.hidden(row)).squeeze(1)

    def _own(self, adapter: str) -> list[torch.nn.Parameter]:
        return [parameter for name, parameter in self.peft.named_parameters() if f".{adapter}." in name]


@torch.no_grad()
def generate(
    network: Network, queries: list[list[int]], lengths: list[int], temperature: float, pad: int, stop: int
) -> list[list[int]]:
    """Sample one reply a query under the active adapter; each gets its stop token at its drawn length."""
    width = max(map(len, queries))
    ids = torch.tensor([[pad] * (width - len(query)) + query for query in queries])
    mask = torch.tensor([[0] * (width - len(query)) + [1] * len(query) for query in queries])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    replies: list[list[int]] = [[] for _ in queries]
    live, cache = list(range(len(queries))), DynamicCache()
    while live:
        out = network.body(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        logits = network.lm_head(out.last_hidden_state[:, -1]) / temperature
        logits[:, stop] = float("-inf")
        tokens = torch.multinomial(torch.softmax(logits, dim=1), 1).squeeze(1).tolist()
        for row, token in zip(live, tokens, strict=True):
            replies[row].append(stop if len(replies[row]) + 1 == lengths[row] else token)
        kept = [place for place, row in enumerate(live) if len(replies[row]) < lengths[row]]
        if len(kept) < len(live):
            cache.batch_select_indices(torch.tensor(kept, dtype=torch.long))
            mask, positions = mask[kept], positions[kept]
            live = [live[place] for place in kept]
        ids = torch.tensor([[replies[row][-1]] for row in live])
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return replies


def pack(queries: list[list[int]], replies: list[list[int]], members: list[int], budget: int) -> list[Row]:
    """Lay episodes into rows of at most `budget` tokens."""
    rows: list[list[int]] = []
    used = budget
    for member in members:
        length = len(queries[member]) + len(replies[member])
        if used + length > budget:
            rows.append([])
            used = 0
        rows[-1].append(member)
        used += length
    return [lay(queries, replies, row) for row in rows]


def lay(queries: list[list[int]], replies: list[list[int]], members: list[int]) -> Row:
    lengths = [len(queries[m]) + len(replies[m]) for m in members]
    owner = torch.repeat_interleave(torch.arange(len(members)), torch.tensor(lengths))
    order = torch.arange(sum(lengths))
    mask = (owner.unsqueeze(0) == owner.unsqueeze(1)) & (order.unsqueeze(0) <= order.unsqueeze(1))
    ends = torch.tensor(lengths).cumsum(0).tolist()
    source = [t for m, end in zip(members, ends, strict=True) for t in range(end - len(replies[m]) - 1, end - 1)]
    return Row(
        members=members,
        replies=[len(replies[m]) for m in members],
        ids=torch.tensor([[token for m in members for token in queries[m] + replies[m]]]),
        positions=torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0),
        mask=mask[None, None],
        source=torch.tensor(source),
        targets=torch.tensor([token for m in members for token in replies[m]]),
    )


@torch.no_grad()
def measure(network: Network, rows: list[Row], count: int, temperature: float) -> list[dict[str, Tensor]]:
    """Return each episode's log-probabilities under actor and reference, and its values."""
    found: list[dict[str, Tensor]] = [{} for _ in range(count)]
    passes = {"actor": network.logprobs, "reference": network.logprobs, "critic": network.values}
    for name, run in passes.items():
        network.use(name)
        for row in rows:
            result = run(row) if name == "critic" else run(row, temperature)
            for member, piece in zip(row.members, result.split(row.replies), strict=True):
                found[member][name] = piece
    return found


def advantages(found: list[dict[str, Tensor]], work: dict[str, Any]) -> None:
    """Add each episode's advantages (whitened over all) and returns; its score is made up."""
    for episode in found:
        rewards = -work["kl_coef"] * (episode["actor"] - episode["reference"])
        rewards[-1] += len(rewards) % 2
        following = torch.cat([episode["critic"][1:], torch.zeros(1)])
        deltas, last = (rewards + following - episode["critic"]).tolist(), 0.0
        for t in range(len(deltas) - 1, -1, -1):
            last = deltas[t] = deltas[t] + work["gae_lambda"] * last
        episode["advantage"] = torch.tensor(deltas)
        episode["return"] = episode["advantage"] + episode["critic"]
    spread, mean = torch.var_mean(torch.cat([episode["advantage"] for episode in found]), correction=0)
    for episode in found:
        episode["advantage"] = (episode["advantage"] - mean) * torch.rsqrt(spread + 1e-8)


def losses(network: Network, row: Row, found: list[dict[str, Tensor]], tokens: int, work: dict[str, Any]) -> None:
    """Run forward and backward of actor and critic on one row, as its share of a minibatch of `tokens`."""
    clip = work["clip_range"]
    old = {name: torch.cat([found[m][name] for m in row.members]) for name in found[0]}
    network.use("actor")
    ratio = torch.exp(network.logprobs(row, work["temperature"]) - old["actor"])
    gain = torch.minimum(ratio * old["advantage"], ratio.clamp(1 - clip, 1 + clip) * old["advantage"])
    (-gain.sum() / tokens).backward()
    network.use("critic")
    values = network.values(row)
    bounded = old["critic"] + (values - old["critic"]).clamp(-clip, clip)
    errors = torch.maximum((values - old["return"]) ** 2, (bounded - old["return"]) ** 2)
    (0.5 * errors.sum() / tokens).backward()


def update(network: Network, optimizers: dict[str, Any], contender: protocol.Contender, clock: protocol.Clock) -> Any:
    """Run one PPO update; return the replies."""
    work, queries, arguments = contender.work, contender.work["queries"], contender.arguments
    network.use("actor")
    replies = generate(network, queries, contender.lengths(), work["temperature"], work["pad"], work["stop"])
    clock.start("scoring")
    count = len(queries)
    found = measure(
        network, pack(queries, replies, list(range(count)), arguments.row_tokens), count, work["temperature"]
    )
    advantages(found, work)
    clock.start("learning")
    for _ in range(work["epochs"]):
        for members in torch.randperm(count).chunk(arguments.minibatches):
            tokens = sum(len(replies[m]) for m in members.tolist())
            for row in pack(queries, replies, members.tolist(), arguments.row_tokens):
                losses(network, row, found, tokens, work)
            for name, optimizer in optimizers.items():
                torch.nn.utils.clip_grad_norm_(network.parameters[name], 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
    return replies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row-tokens", type=int, default=256, help="most tokens of the episodes in one row")
    contender = protocol.Contender(parser)
    torch.set_num_threads(contender.work["threads"])
    torch.manual_seed(contender.work["seed"])
    contender.begin()
    network = Network(contender.model, contender.arguments.quantization, contender.work)
    optimizers = {
        name: torch.optim.AdamW(parameters, lr=contender.work["learning_rate"], weight_decay=0.0, fused=True)
        for name, parameters in network.parameters.items()
    }
    contender.ready(row_tokens=contender.arguments.row_tokens)
    while contender.wait():
        clock = protocol.Clock("rollout")
        contender.report(clock, [len(reply) for reply in update(network, optimizers, contender, clock)])


if __name__ == "__main__":
    main()
