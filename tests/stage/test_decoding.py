"""Continuous batching writes what plain generation writes: the same greedy text, the same sampled distribution."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from lite_huatuo.models import backends
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import decoding, decoding_padded
from lite_huatuo.training.decoding import Choose, Reply, draw, sampler
from lite_huatuo.training.logprobs import collate
from lite_huatuo.training.rollout import reply_logprobs

QUERIES = [[60 + i + j for j in range(1 + (5 * i) % 7)] for i in range(11)]


@pytest.fixture(scope="module")
def shared(toy: dict[str, str], toy_run: RunDir) -> SharedBase:
    return SharedBase.from_adapters(backends.load(toy["model"]), {"actor": toy_run.final("sft")}, ())


def write(shared: SharedBase, queries: list[list[int]], choose: Choose, **changes: object) -> list[Reply]:
    settings: dict = {"max_reply_length": 40, "batch_size": 4, "temperature": 1.0, **changes}
    with shared.using("actor"):
        return decoding.decode(shared, queries, choose=choose, **settings)


def stop_after(lengths: Sequence[int], shared: SharedBase) -> Choose:
    """Sample, but stop where told."""
    free, stop = sampler(1.0), shared.tokenizer.stop_ids[0]

    def choose(logprobs: Tensor, rows: Sequence[int], positions: Sequence[int]) -> Tensor:
        never = logprobs.clone()
        never[:, shared.tokenizer.stop_ids] = -1e9
        tokens = free(never, rows, positions)
        for place, (row, position) in enumerate(zip(rows, positions, strict=True)):
            if position + 1 == lengths[row]:
                tokens[place] = stop
        return tokens

    return choose


@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_greedy_text_is_that_of_generate(shared: SharedBase, toy: dict[str, str], batch_size: int) -> None:
    queries = [shared.tokenizer.query(f"Patient {i} has {sign}. Which cure?") for i, sign in enumerate(["rash"] * 6)]
    queries += QUERIES
    ours = write(shared, queries, sampler(None), temperature=None, batch_size=batch_size, max_reply_length=60)
    with shared.using("actor"):
        theirs = decoding_padded.decode(shared, queries, max_reply_length=60, batch_size=5, temperature=None)
    assert [reply.tokens for reply in ours] == [reply.tokens for reply in theirs]
    assert [reply.stopped for reply in ours] == [reply.stopped for reply in theirs]
    assert any(reply.stopped for reply in ours)
    assert not any(reply.logprobs for reply in ours)


def test_log_probabilities_are_those_of_a_pass_of_their_own(shared: SharedBase) -> None:
    torch.manual_seed(0)
    replies = write(shared, QUERIES, sampler(0.7), temperature=0.7, max_reply_length=23)
    batch = collate(QUERIES, [reply.tokens for reply in replies], width=23, device="cpu")
    with shared.using("actor"), torch.no_grad():
        logprobs, spread = reply_logprobs(shared, batch, temperature=0.7)
    for row, reply in enumerate(replies):
        count = len(reply.tokens)
        assert reply.logprobs == pytest.approx(logprobs[row, :count].tolist(), abs=1e-4)
        assert reply.entropies == pytest.approx(spread[row, :count].tolist(), abs=1e-4)


def test_a_finished_row_costs_nothing_more(shared: SharedBase) -> None:
    lengths, rows = [1 + (11 * i) % 30 for i in range(len(QUERIES))], []
    handle = shared.lm_head.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    torch.manual_seed(0)
    replies = write(shared, QUERIES, stop_after(lengths, shared), batch_size=4)
    handle.remove()
    assert [len(reply.tokens) for reply in replies] == lengths
    assert all(reply.stopped for reply in replies)
    assert sum(rows) == sum(lengths)
    assert max(rows) <= 4
    assert len(rows) < sum(lengths) / 2  # rows are written together


def test_the_limit_cuts_and_every_reply_is_told(shared: SharedBase) -> None:
    told: dict[int, Reply] = {}
    torch.manual_seed(0)
    replies = write(shared, QUERIES, stop_after([99] * 11, shared), max_reply_length=5, on_reply=told.__setitem__)
    assert [len(reply.tokens) for reply in replies] == [5] * 11
    assert not any(reply.stopped for reply in replies)
    assert [told[row] for row in range(11)] == replies
    assert write(shared, [], sampler(None)) == []


def test_a_weight_of_zero_is_never_drawn() -> None:
    torch.manual_seed(0)
    weights = torch.tensor([[0.0, 1.0, 0.0, 3.0, 0.0]]).repeat(4000, 1)
    drawn = Counter(draw(weights).tolist())
    assert set(drawn) == {1, 3}
    assert drawn[3] == pytest.approx(3000, abs=4 * math.sqrt(4000 * 0.75 * 0.25))


# the sampled distribution, on a vocabulary of six tokens of which one is the stop token

FEW, COUNT = [1, 60, 61, 62, 63, 64], 3000


@pytest.fixture
def few(shared: SharedBase) -> Iterator[None]:
    """Leave the model no other tokens."""
    allowed = torch.full((shared.lm_head.weight.shape[0],), -1e9)
    allowed[FEW] = 0.0
    handle = shared.lm_head.register_forward_hook(lambda module, args, logits: 0.2 * logits + allowed)
    yield
    handle.remove()


def expected(shared: SharedBase, query: list[int], temperature: float) -> dict[tuple[int, ...], float]:
    """The probability of every reply of at most two tokens."""
    with shared.using("actor"), torch.no_grad():
        states = shared.states([[*query, token] for token in FEW])[len(query) - 1 :]
        chances = torch.softmax(shared.lm_head(states).float() / temperature, dim=1)
    first, second = chances[0], chances[1 :: len(query) + 1]
    theory = {(a, b): (first[a] * second[i][b]).item() for i, a in enumerate(FEW) if a != 1 for b in FEW}
    return {**theory, (1,): first[1].item()}


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("who", ["ours", "seeded", "generate"])
def test_replies_are_drawn_from_the_actors_distribution(
    shared: SharedBase, few: None, temperature: float, who: str
) -> None:
    query = QUERIES[3]
    theory = expected(shared, query, temperature)
    assert sum(theory.values()) == pytest.approx(1, abs=1e-4)
    queries = [query] * COUNT
    torch.manual_seed(5)
    limits = {"max_reply_length": 2, "temperature": temperature, "batch_size": 250}
    if who == "ours":
        replies = write(shared, queries, sampler(temperature), **limits)
    elif who == "seeded":
        replies = write(shared, queries, sampler(temperature, seeds=range(COUNT)), **limits)
    else:
        with shared.using("actor"):
            replies = decoding_padded.decode(shared, queries, **limits)
    seen = Counter(tuple(reply.tokens) for reply in replies)
    assert set(seen) <= set(theory)
    common = [reply for reply in theory if theory[reply] * COUNT >= 5]
    pairs = [(seen[reply], theory[reply] * COUNT) for reply in common]
    rest = COUNT - sum(have for have, _ in pairs), COUNT - sum(want for _, want in pairs)
    statistic = sum((have - want) ** 2 / want for have, want in [*pairs, *([rest] if rest[1] >= 5 else [])])
    degrees = len(pairs)
    assert degrees >= 10
    assert statistic < degrees + 4 * math.sqrt(2 * degrees)  # chi-square: mean df, variance 2 df


def test_top_p_leaves_the_unlikely_out(shared: SharedBase, few: None) -> None:
    query = QUERIES[3]
    theory = expected(shared, query, 1.0)
    first = {token: sum(p for reply, p in theory.items() if reply[0] == token) for token in FEW}
    likely = sorted(first, key=first.__getitem__, reverse=True)
    top_p = first[likely[0]] + first[likely[1]] / 2  # just the two most likely reach it
    torch.manual_seed(0)
    replies = write(shared, [query] * 400, sampler(1.0, top_p), max_reply_length=1, batch_size=100)
    assert {reply.tokens[0] for reply in replies} == set(likely[:2])


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "packed"])
def test_replies_are_written_without_cudnns_attention(shared: SharedBase, enabled: bool, padded: bool) -> None:
    """It plans anew for every length of the keys; what the caller had chosen stands again afterwards."""
    cuda, seen = torch.backends.cuda, []
    before = cuda.cudnn_sdp_enabled()
    hook = shared.body.register_forward_pre_hook(lambda *_: seen.append(cuda.cudnn_sdp_enabled()))
    try:
        cuda.enable_cudnn_sdp(enabled)
        with shared.using("actor"):
            if padded:
                decoding_padded.decode(shared, QUERIES[:2], max_reply_length=3, batch_size=2, temperature=None)
            else:
                write(shared, QUERIES[:2], sampler(None), max_reply_length=3, temperature=None)
            assert len(seen) >= 3
            assert not any(seen)
            assert cuda.cudnn_sdp_enabled() is enabled
            shared.states(QUERIES[:1])
            assert seen[-1] is enabled, "only decoding does without it"
    finally:
        hook.remove()
        cuda.enable_cudnn_sdp(before)


def test_cudnns_attention_is_as_before_after_an_error(shared: SharedBase) -> None:
    def fail(*_: object) -> Tensor:
        raise ZeroDivisionError

    before = torch.backends.cuda.cudnn_sdp_enabled()
    with pytest.raises(ZeroDivisionError):
        write(shared, QUERIES[:1], fail)
    assert torch.backends.cuda.cudnn_sdp_enabled() is before
