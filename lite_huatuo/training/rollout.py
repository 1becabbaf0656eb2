"""One sampling phase: replies by the actor, their scores, and log-probabilities and values for learning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.models.value_head import ValueHead
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.response_format import parse
from lite_huatuo.training.logprobs import Batch, collate, microbatches, token_logprobs
from lite_huatuo.training.reward import score
from lite_huatuo.verifier.base import Item, Verdict, Verifier


@dataclass
class Episode:
    """One query and its reply. `stopped` is False where the reply was cut at the limit."""

    problem: VerifiableProblem
    query: list[int]
    reply: list[int]
    stopped: bool
    text: str
    well_formed: bool = False
    verdict: Verdict | None = None
    score: float | None = None  # None: the verifier failed

    @property
    def length(self) -> int:
        """Tokens of query and reply."""
        return len(self.query) + len(self.reply)


@dataclass
class Rollout:
    """The tensors of one sampling phase, all (B, R) float32 on the CPU except reply_mask (bool) and scores (B,)."""

    episodes: list[Episode]
    scores: Tensor
    reply_mask: Tensor
    logprobs: Tensor
    reference: Tensor
    values: Tensor
    entropy: Tensor
    dropped: list[Episode] = field(default_factory=list)


@torch.no_grad()
def generate(
    shared: SharedBase,
    problems: Sequence[VerifiableProblem],
    queries: Sequence[list[int]],
    *,
    max_reply_length: int,
    batch_size: int,
    temperature: float | None,
    top_p: float = 1.0,
    on_batch: Callable[[int], None] | None = None,
) -> list[Episode]:
    """Write one reply per problem with the adapter active in the caller's `using`; temperature None is greedy.

    `queries` are token ids. A reply ends with its first stop token (kept) or at `max_reply_length` tokens. Queries of
    like length go together; the result is in the order of `problems`.
    """
    from transformers import GenerationConfig

    tokenizer = shared.tokenizer
    sampling: dict[str, Any] = (
        {"do_sample": False}
        if temperature is None
        else {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    )
    config = GenerationConfig(
        max_new_tokens=max_reply_length,
        eos_token_id=tokenizer.stop_ids,
        pad_token_id=tokenizer.pad_id,
        use_cache=True,
        **sampling,
    )
    order = sorted(range(len(problems)), key=lambda i: (len(queries[i]), i))
    episodes: list[Episode | None] = [None] * len(problems)
    for start in range(0, len(order), batch_size):
        group = order[start : start + batch_size]
        width = max(len(queries[i]) for i in group)
        padding = [width - len(queries[i]) for i in group]
        ids = torch.tensor([[tokenizer.pad_id] * pad + queries[i] for i, pad in zip(group, padding, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
        output = shared.causal.generate(
            input_ids=ids.to(shared.device), attention_mask=mask.to(shared.device), generation_config=config
        )
        for i, tokens in zip(group, output[:, width:].tolist(), strict=True):
            reply, stopped = _until_stop(tokens, tokenizer.stop_ids)
            episodes[i] = Episode(problems[i], queries[i], reply, stopped, tokenizer.decode(reply))
        if on_batch is not None:
            on_batch(len(group))
    return [episode for episode in episodes if episode is not None]


def judge(episodes: Sequence[Episode], verifier: Verifier, *, truncated: str = "no_form") -> None:
    """Fill in well_formed, verdict and score; see `judging`."""
    with judging(episodes, verifier, truncated=truncated):
        pass


@contextmanager
def judging(episodes: Sequence[Episode], verifier: Verifier, *, truncated: str = "no_form") -> Iterator[None]:
    """Judge while the block runs, if the verifier only waits (`background`), else before it. At the block's end
    well_formed, verdict and score are filled in. Only well-formed replies go to the verifier.

    A reply that was cut at the limit has no final response and scores like one without the form, unless `truncated`
    is "score".
    """
    asked = _well_formed(episodes, truncated)
    items = [item for _, item in asked]
    if verifier.background:
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(verifier.verify, items)
            yield
            verdicts = future.result()
    else:
        verdicts = verifier.verify(items)
        yield
    for (episode, _), verdict in zip(asked, verdicts, strict=True):
        episode.verdict = verdict
    for episode in episodes:
        episode.score = score(episode.well_formed, episode.verdict)


def _well_formed(episodes: Sequence[Episode], truncated: str) -> list[tuple[Episode, Item]]:
    """Fill in well_formed; return what a verifier is asked about the episodes that are."""
    asked: list[tuple[Episode, Item]] = []
    for episode in episodes:
        sections = parse(episode.text) if episode.stopped or truncated == "score" else None
        episode.well_formed = sections is not None
        if sections is not None:
            problem = episode.problem
            asked.append((episode, Item(problem.question, sections.final_response, problem.ground_truth)))
    return asked


@torch.no_grad()
def measure(
    shared: SharedBase, head: ValueHead, episodes: Sequence[Episode], *, temperature: float, microbatch_tokens: int
) -> Rollout:
    """Return the rollout's tensors: log-probabilities under actor and reference, values, entropy. Scores come later."""
    width = max((len(episode.reply) for episode in episodes), default=1)
    tensors: dict[str, Any] = {
        name: torch.zeros(len(episodes), width) for name in ("logprobs", "reference", "values", "entropy")
    }
    for group in microbatches([episode.length for episode in episodes], budget=microbatch_tokens):
        batch = pack(shared, [episodes[i] for i in group], width)
        for adapter, name in (("actor", "logprobs"), ("reference", "reference")):
            with shared.using(adapter):
                logprobs, spread = reply_logprobs(shared, batch, temperature=temperature)
            tensors[name][group] = logprobs.cpu()
            if adapter == "actor":
                tensors["entropy"][group] = spread.cpu()
        with shared.using("critic"):
            tensors["values"][group] = reply_values(shared, head, batch).cpu()
    mask = torch.tensor([[t < len(episode.reply) for t in range(width)] for episode in episodes]).reshape(-1, width)
    return Rollout(list(episodes), torch.zeros(len(episodes)), mask, **tensors)


def scored(rollout: Rollout) -> Rollout:
    """Return the rollout of the episodes that were judged, with their scores; the others are set aside in `dropped`."""
    kept = [i for i, episode in enumerate(rollout.episodes) if episode.score is not None]
    return Rollout(
        [rollout.episodes[i] for i in kept],
        torch.tensor([rollout.episodes[i].score for i in kept], dtype=torch.float32),
        rollout.reply_mask[kept],
        rollout.logprobs[kept],
        rollout.reference[kept],
        rollout.values[kept],
        rollout.entropy[kept],
        dropped=[episode for episode in rollout.episodes if episode.score is None],
    )


def pack(shared: SharedBase, episodes: Sequence[Episode], width: int) -> Batch:
    """Return the microbatch of some episodes on the network's device."""
    return collate(
        [episode.query for episode in episodes],
        [episode.reply for episode in episodes],
        pad_id=shared.tokenizer.pad_id,
        width=width,
        device=shared.device,
    )


def reply_logprobs(shared: SharedBase, batch: Batch, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and entropies (M, R) of the reply tokens under the active adapter."""
    hidden = batch.gather(shared.hidden(batch.input_ids, batch.attention_mask))
    logprobs, spread = token_logprobs(hidden, batch.targets, shared.lm_head, temperature=temperature)
    return batch.scatter(logprobs), batch.scatter(spread)


def reply_values(shared: SharedBase, head: ValueHead, batch: Batch) -> Tensor:
    """Return values (M, R) of the states before each reply token, under the active adapter; lm_head is not run."""
    return batch.scatter(head(batch.gather(shared.hidden(batch.input_ids, batch.attention_mask))))


def _until_stop(tokens: list[int], stop_ids: list[int]) -> tuple[list[int], bool]:
    """Return the reply up to and with its first stop token, and whether there was one."""
    for position, token in enumerate(tokens):
        if token in stop_ids:
            return tokens[: position + 1], True
    return tokens, False
