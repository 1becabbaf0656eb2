"""Train a verifier adapter: judged replies in, a LoRA on the student's base that judges out, calibrated and measured.

The rows are split by question into train, calibration and test. The loss is the binary cross-entropy of P(right); after
the last epoch one temperature is fitted on the calibration part, and the test part says how good the verifier is.
"""

from __future__ import annotations

import hashlib
import json
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from lite_huatuo.errors import RecordError
from lite_huatuo.models.backends import LoadedBase
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.models.value_head import ValueHead
from lite_huatuo.stopping import Interrupted, Stop
from lite_huatuo.training.logprobs import microbatches
from lite_huatuo.training.ppo_update import divide_gradients
from lite_huatuo.training.progress import Progress
from lite_huatuo.training.verifier_checkpoint import EVERY, Checkpoints
from lite_huatuo.verifier import metrics
from lite_huatuo.verifier.adapter import AdapterVerifier, Settings, encode
from lite_huatuo.verifier.suite import Case

ADAPTER = "verifier"


@dataclass(frozen=True)
class Parts:
    """Judged replies, split by question: none is in two parts."""

    train: list[Case]
    calibration: list[Case]
    test: list[Case]


def split(rows: Sequence[Case], *, calibration: float = 0.1, test: float = 0.2, seed: int = 42) -> Parts:
    """Split by question: all replies to one question go to the same part, which the question and the seed decide."""
    parts = Parts([], [], [])
    for row in rows:
        digest = hashlib.sha256(f"{seed}\0{row.question}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        part = parts.test if place < test else parts.calibration if place < test + calibration else parts.train
        part.append(row)
    for name in ("train", "calibration", "test"):
        if {row.label for row in getattr(parts, name)} != {True, False}:
            raise RecordError(
                f"{len(rows)} judged replies: too few for a {name} part with right and wrong ones; give more"
            )
    return parts


def digest(rows: Sequence[Case]) -> str:
    """Return what tells one set of judged replies from another."""
    return hashlib.sha256(json.dumps([asdict(row) for row in rows], sort_keys=True).encode()).hexdigest()[:16]


def train(
    loaded: LoadedBase,
    parts: Parts,
    *,
    mode: Literal["head", "token"],
    rank: int,
    alpha: int,
    targets: str | list[str],
    epochs: int,
    batch_size: int,
    learning_rate: float,
    max_length: int,
    microbatch_tokens: int,
    threshold: float,
    seed: int,
    progress: Progress,
    checkpoints: Checkpoints | None = None,
    stop: Stop | None = None,
) -> AdapterVerifier:
    """Return the trained and calibrated verifier on its base.

    Each optimizer step sees `batch_size` replies, cut into microbatches of `microbatch_tokens` tokens; the learning
    rate rises over the first tenth of the steps and falls to 0 along a line. With `checkpoints` it goes on from the
    newest, and a signal that `stop` was told of leaves one.
    """
    torch.manual_seed(seed)
    shared = SharedBase.fresh(loaded, ADAPTER, rank=rank, alpha=alpha, targets=targets)
    head = ValueHead(shared.hidden_size).to(shared.device) if mode == "head" else None
    verifier = AdapterVerifier(shared, ADAPTER, Settings(mode, 1.0, max_length), head, threshold=threshold)
    parameters = list(shared.parameters(ADAPTER).values()) + (list(head.parameters()) if head else [])
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    rows = [(encode(loaded.tokenizer, row.item, max_length), row.label) for row in parts.train]
    steps = epochs * -(-len(rows) // batch_size)
    done = checkpoints.load(verifier, optimizer, progress) if checkpoints else 0
    stop = stop or Stop()
    progress.start("train verifier", steps)
    progress.advance(done)
    losses: list[float] = []
    with stop.held():
        for step, members in enumerate(_minibatches(len(rows), epochs, batch_size, seed), start=1):
            if step <= done:
                continue
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * min(1.0, step / max(1, steps // 10)) * (1 - (step - 1) / steps)
            losses.append(_backward(verifier, [rows[i] for i in members], microbatch_tokens))
            divide_gradients(parameters, len(members))
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            progress.advance(1, **({"loss": statistics.fmean(losses[-10:])} if step % 10 == 0 else {}))
            if checkpoints and (stop.signal or step % EVERY == 0 or step == steps):
                checkpoints.save(verifier, optimizer, step)
            if stop.signal:
                raise Interrupted(stop.signal)
    probabilities = verifier.probabilities([row.item for row in parts.calibration])
    temperature = metrics.fit_temperature(probabilities, [row.label for row in parts.calibration])
    verifier.settings = replace(verifier.settings, temperature=temperature)
    return verifier


def _backward(verifier: AdapterVerifier, rows: Sequence[tuple[list[int], bool]], microbatch_tokens: int) -> float:
    """Accumulate the gradient of the loss summed over the rows, which float16 can hold; return the mean loss."""
    total = 0.0
    lengths = [len(ids) for ids, _ in rows]
    for group in microbatches(lengths, budget=microbatch_tokens, padded=not verifier.shared.packs):
        with verifier.shared.using(ADAPTER, learn=True):
            logits = verifier.logits([rows[i][0] for i in group])
            labels = torch.tensor([float(rows[i][1]) for i in group], device=logits.device)
            loss = binary_cross_entropy_with_logits(logits, labels, reduction="sum")
            loss.backward()
        total += loss.item()
    return total / len(rows)


def _minibatches(count: int, epochs: int, size: int, seed: int) -> Iterator[list[int]]:
    """Yield the members of every minibatch, shuffled anew each epoch."""
    for epoch in range(epochs):
        order = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        for start in range(0, count, size):
            yield order[start : start + size]
