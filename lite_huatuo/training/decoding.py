"""Continuous batching: replies of very different lengths, written without waiting for the longest one.

A row leaves the batch with its stop token and a waiting query takes its place, so that a step's work is that of the
rows still writing. Queries are read packed, without padding.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.models.slots import Slots

READ_TOKENS = 4096  # query tokens that are read in one forward pass
Choose = Callable[[Tensor, Sequence[int], Sequence[int]], Tensor]
OnReply = Callable[[int, "Reply"], None]  # (which query, its reply)


@dataclass
class Reply:
    """A reply's tokens, its stop token included; `stopped` is False where it was cut at the limit.

    logprobs and entropies, one number a token, are those of the sampled distribution before any top-p cut,
    softmax(logits / temperature). Both are empty where decoding was greedy.
    """

    tokens: list[int] = field(default_factory=list)
    stopped: bool = False
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)


def sampler(temperature: float | None, top_p: float = 1.0, *, seeds: Sequence[int] | None = None) -> Choose:
    """Return the choice of next tokens (n,) from log-probabilities (n, V) at the temperature; None is greedy.

    `seeds`, one a query, give every reply random numbers of its own: it then depends on no other reply, but for
    rounding. Without them torch's generator is asked.
    """
    from transformers import TopPLogitsWarper

    cut = TopPLogitsWarper(top_p) if top_p < 1 else None

    def choose(logprobs: Tensor, rows: Sequence[int], positions: Sequence[int]) -> Tensor:
        if temperature is None:
            return logprobs.argmax(dim=1)
        points = (
            None if seeds is None else [_point(seeds[row], place) for row, place in zip(rows, positions, strict=True)]
        )
        return draw(torch.exp(cut(None, logprobs) if cut else logprobs), points)

    return choose


def _point(seed: int, position: int) -> float:
    """Return the random number in [0, 1) of a reply's token."""
    return (int.from_bytes(hashlib.sha256(f"{seed}/{position}".encode()).digest()[:8], "big") >> 11) / 2**53


def draw(weights: Tensor, points: Sequence[float] | None = None) -> Tensor:
    """Draw one index (n,) from each row of weights (n, V), in proportion to them; `points` are the random numbers.

    By the cumulative sum and one random number a row: torch.multinomial draws one for every weight, which for a large
    vocabulary takes a CPU longer than the rest of lm_head.
    """
    sums = weights.cumsum(dim=1, dtype=torch.float64)
    if points is None:
        point = torch.rand(len(weights), 1, dtype=torch.float64, device=weights.device)
    else:
        point = torch.tensor(points, dtype=torch.float64, device=weights.device)[:, None]
    return torch.searchsorted(sums, point * sums[:, -1:], right=True)[:, 0].clamp(max=weights.shape[1] - 1)


@torch.no_grad()
def decode(
    shared: SharedBase,
    queries: Sequence[list[int]],
    *,
    max_reply_length: int,
    batch_size: int,
    temperature: float | None,
    choose: Choose,
    on_reply: OnReply | None = None,
) -> list[Reply]:
    """Write one reply per query (token ids) with the active adapter; at most `batch_size` rows write at once.

    `on_reply` is given each reply with the step that ends it. Returns replies in the order of the queries.
    """
    writer = _Writer(shared, queries, max_reply_length, batch_size, temperature, choose)
    with shared.writing(batch_size, max((len(query) for query in queries), default=0) + max_reply_length):
        while shared.goes_on(bool(writer.waiting or writer.rows)):
            if not writer.waiting and not writer.rows:
                shared.idle()
                continue
            # reading costs a pass, whether of one query or several: let a few places become free first
            free = batch_size - len(writer.rows)
            if writer.waiting and (not writer.rows or free >= min(len(writer.waiting), max(1, batch_size // 8))):
                writer.read()
            else:
                writer.step()
            if on_reply is not None:
                for row in writer.ended:
                    on_reply(row, writer.replies[row])
            writer.ended.clear()
    return writer.replies


class _Writer:
    """The state of one call of `decode`; `rows[s]` is the query whose reply slot s writes."""

    def __init__(
        self,
        shared: SharedBase,
        queries: Sequence[list[int]],
        limit: int,
        batch_size: int,
        temperature: float | None,
        choose: Choose,
    ) -> None:
        self.shared, self.queries, self.limit, self.batch_size = shared, queries, limit, batch_size
        self.temperature, self.choose = temperature, choose
        self.stops = set(shared.tokenizer.stop_ids)
        self.replies = [Reply() for _ in queries]
        # the like of length together: long queries first, for they tend to have the long replies
        self.waiting = deque(sorted(range(len(queries)), key=lambda i: (-len(queries[i]), i)))
        self.rows: list[int] = []
        self.ended: list[int] = []  # in the last step
        longest = max((len(query) for query in queries), default=0)
        self.slots = Slots(min(batch_size, len(queries)), longest + min(limit, 64))

    def read(self) -> None:
        """Read waiting queries into the free slots, and write the first token of their replies."""
        new = [self.waiting.popleft()]
        while self.waiting and len(self.rows) + len(new) < self.batch_size:
            if sum(len(self.queries[i]) for i in (*new, self.waiting[0])) > READ_TOKENS:
                break
            new.append(self.waiting.popleft())
        lengths = [len(self.queries[i]) for i in new]
        self.slots.fill(lengths)
        hidden = self.shared.states([self.queries[i] for i in new], self.slots)
        ends = torch.tensor(lengths, device=hidden.device).cumsum(0) - 1
        self.rows += new
        self._write(hidden[ends], new)

    def step(self) -> None:
        """Write one more token of every reply."""
        last = [[self.replies[row].tokens[-1]] for row in self.rows]
        hidden = self.shared.next_states(torch.tensor(last, device=self.shared.device), self.slots)
        self._write(hidden, list(self.rows))

    def _write(self, hidden: Tensor, rows: list[int]) -> None:
        """Choose the next token of some rows from their hidden states (n, H); let those that are finished leave."""
        logits = self.shared.lm_head(hidden).float()
        if self.temperature is not None:
            logits = torch.log_softmax(logits / self.temperature, dim=1)
        tokens = self.choose(logits, rows, [len(self.replies[row].tokens) for row in rows])
        for row, token in zip(rows, tokens.tolist(), strict=True):
            self.replies[row].tokens.append(token)
        if self.temperature is not None:
            chosen, spread = logits.gather(1, tokens[:, None])[:, 0], -(torch.exp(logits).mul_(logits)).sum(dim=1)
            for row, logprob, entropy in zip(rows, chosen.tolist(), spread.tolist(), strict=True):
                self.replies[row].logprobs.append(logprob)
                self.replies[row].entropies.append(entropy)
        for row in rows:
            reply = self.replies[row]
            reply.stopped = reply.tokens[-1] in self.stops
            if reply.stopped or len(reply.tokens) == self.limit:
                slot = self.rows.index(row)
                self.rows[slot] = self.rows[self.slots.leave(slot)]
                self.rows.pop()
                self.ended.append(row)
