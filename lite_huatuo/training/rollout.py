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
from lite_huatuo.training import decoding, decoding_padded, ppo_math
from lite_huatuo.training.decoding import Choose, Reply
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
    logprobs: list[float] = field(default_factory=list)  # of each reply token, by who sampled it; empty: not told
    entropies: list[float] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens of query and reply."""
        return len(self.query) + len(self.reply)


@dataclass
class Rollout:
    """The tensors of one sampling phase, all (B, R) float32 on the CPU except reply_mask (bool) and scores (B,).

    `weights` are importance weights (1 where the sampler's distribution is the actor's). `trunk` holds what goes into
    the critic's layers, one (T, H) tensor an episode of T tokens, where the critic stands on the reference's trunk
    (None for an episode that another process sampled).
    """

    episodes: list[Episode]
    scores: Tensor
    reply_mask: Tensor
    logprobs: Tensor
    reference: Tensor
    values: Tensor
    entropy: Tensor
    weights: Tensor
    trunk: list[Tensor | None] = field(default_factory=list)
    dropped: list[Episode] = field(default_factory=list)


def generate(
    shared: SharedBase,
    problems: Sequence[VerifiableProblem],
    queries: Sequence[list[int]],
    *,
    max_reply_length: int,
    batch_size: int,
    temperature: float | None,
    top_p: float = 1.0,
    on_episode: Callable[[int, Episode], None] | None = None,
    choose: Choose | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Episode]:
    """Write one reply per problem with the adapter active in the caller's `using`; temperature None is greedy.

    `queries` are token ids. A reply ends with its first stop token (kept) or at `max_reply_length` tokens; `batch_size`
    rows are written at once. `choose` takes the place of sampling; it needs a base that packs. `seeds`, one a problem,
    make every reply depend on its own seed only, but for rounding, and leave torch's generator alone; without packing
    the first seeds all. `on_episode` is given each (place in `problems`, episode) as its reply ends, without packing as
    its batch ends. The result is in the order of `problems`.
    """
    episodes: dict[int, Episode] = {}

    def ended(place: int, reply: Reply) -> None:
        episodes[place] = episode(shared, problems[place], queries[place], reply)
        if on_episode is not None:
            on_episode(place, episodes[place])

    limits: dict[str, Any] = {"max_reply_length": max_reply_length, "batch_size": batch_size, "on_reply": ended}
    if shared.packs:
        choose = choose or decoding.sampler(temperature, top_p, seeds=seeds)
        decoding.decode(shared, queries, temperature=temperature, choose=choose, **limits)
    else:
        assert choose is None, "choosing tokens needs a base that packs"
        with _seeded(shared, seeds):
            decoding_padded.decode(shared, queries, temperature=temperature, top_p=top_p, **limits)
    return [episodes[place] for place in range(len(problems))]


@contextmanager
def _seeded(shared: SharedBase, seeds: Sequence[int] | None) -> Iterator[None]:
    """Seed torch's generators by the first seed while the block runs, and put them back."""
    if not seeds:
        yield
        return
    with torch.random.fork_rng([shared.device] if shared.device.type == "cuda" else []):
        torch.manual_seed(seeds[0])
        yield


def episode(shared: SharedBase, problem: VerifiableProblem, query: list[int], reply: Reply) -> Episode:
    """Return the episode of a reply that is still to be judged."""
    return Episode(
        problem,
        query,
        reply.tokens,
        reply.stopped,
        shared.tokenizer.decode(reply.tokens),
        logprobs=reply.logprobs,
        entropies=reply.entropies,
    )


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
    shared: SharedBase,
    head: ValueHead,
    episodes: Sequence[Episode],
    *,
    temperature: float,
    microbatch_tokens: int,
    sampled: bool = False,
    weight_cap: float = 1.0,
    trunk_layers: int | None = None,
) -> Rollout:
    """Return the rollout's tensors: log-probabilities under actor and reference, values, entropy. Scores come later.

    `sampled` takes the actor's log-probabilities from those who sampled the replies, which saves a pass and is right
    where they are exact; a sampler that tells no entropies (vLLM) is not taken by its word. Else they are computed, and
    the sampler's own make importance weights, cut off at `weight_cap`.
    `trunk_layers` is the number of the critic's own layers where it stands on the reference's trunk.
    """
    width = max((len(episode.reply) for episode in episodes), default=1)
    told = all(episode.logprobs for episode in episodes)
    own = _laid_out([episode.logprobs for episode in episodes], width) if told else None
    sampled = sampled and told and all(episode.entropies for episode in episodes)
    tensors: dict[str, Any] = {
        name: torch.zeros(len(episodes), width) for name in ("logprobs", "reference", "values", "entropy")
    }
    trunk: list[Tensor | None] = [None] * len(episodes)
    groups = microbatches([e.length for e in episodes], budget=microbatch_tokens, padded=not shared.packs)
    for group in shared.in_step(groups):
        if group is None:
            _idle(shared, ("reference", "critic") if sampled else ("actor", "reference", "critic"))
            continue
        batch = pack(shared, [episodes[i] for i in group], width)
        if not sampled:
            with shared.using("actor"):
                tensors["logprobs"][group], tensors["entropy"][group] = (
                    x.cpu() for x in reply_logprobs(shared, batch, temperature=temperature)
                )
        with shared.using("reference"):
            states, below = _states(shared, batch, trunk_layers)
        tensors["reference"][group] = _logprobs(shared, batch, states, temperature)[0].cpu()
        with shared.using("critic"):
            tensors["values"][group] = reply_values(shared, head, batch, below, trunk_layers).cpu()
        if below is not None:
            for i, piece in zip(group, below.cpu().split([len(row) for row in batch.rows]), strict=True):
                trunk[i] = piece
    mask = torch.tensor([[t < len(e.reply) for t in range(width)] for e in episodes]).reshape(-1, width)
    weights = torch.ones(len(episodes), width)
    if sampled:
        tensors["logprobs"], tensors["entropy"] = own, _laid_out([e.entropies for e in episodes], width)
    elif own is not None:
        weights = ppo_math.importance_weights(tensors["logprobs"], own, mask, cap=weight_cap)
    scores = torch.zeros(len(episodes))
    return Rollout(
        list(episodes), scores, mask, **tensors, weights=weights, trunk=trunk if trunk_layers is not None else []
    )


def _idle(shared: SharedBase, adapters: Sequence[str]) -> None:
    """Make a microbatch's passes without one, for processes that have more of them."""
    for adapter in adapters:
        with shared.using(adapter):
            shared.idle()


def _laid_out(rows: Sequence[Sequence[float]], width: int) -> Tensor:
    """Return per-token numbers of every episode as (B, R), 0 after the end."""
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows]).reshape(-1, width)


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
        rollout.weights[kept],
        [rollout.trunk[i] for i in kept] if rollout.trunk else [],
        dropped=[episode for episode in rollout.episodes if episode.score is None],
    )


def pack(shared: SharedBase, episodes: Sequence[Episode], width: int) -> Batch:
    """Return the microbatch of some episodes, for the network's device."""
    queries, replies = [episode.query for episode in episodes], [episode.reply for episode in episodes]
    return collate(queries, replies, width=width, device=shared.device)


def reply_logprobs(shared: SharedBase, batch: Batch, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and entropies (M, R) of the reply tokens under the active adapter."""
    return _logprobs(shared, batch, shared.states(batch.rows), temperature)


def reply_values(
    shared: SharedBase, head: ValueHead, batch: Batch, trunk: Tensor | None = None, layers: int | None = None
) -> Tensor:
    """Return values (M, R) of the states before each reply token, under the active adapter; lm_head is not run.

    With `trunk` (S, H) only the top `layers` layers run.
    """
    if trunk is None or layers is None:
        states = shared.states(batch.rows)
    else:
        states = shared.states_from_trunk(trunk, batch.rows, layers)
    return batch.scatter(head(batch.gather(states)))


def _states(shared: SharedBase, batch: Batch, trunk_layers: int | None) -> tuple[Tensor, Tensor | None]:
    """Return the last hidden states and, where somebody has layers of its own on top, what goes into those layers."""
    return (
        (shared.states(batch.rows), None) if trunk_layers is None else shared.states_and_trunk(batch.rows, trunk_layers)
    )


def _logprobs(shared: SharedBase, batch: Batch, states: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logprobs, spread = token_logprobs(batch.gather(states), batch.targets, shared.lm_head, temperature=temperature)
    return batch.scatter(logprobs), batch.scatter(spread)
