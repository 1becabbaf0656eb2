"""Log-probabilities of reply tokens: the right positions, the right numbers and gradients, however they are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from lite_huatuo.training.logprobs import CHUNK_NUMBERS, Batch, collate, microbatches, token_logprobs

QUERIES, REPLIES = [[5, 6, 7], [8]], [[1, 2], [3, 4, 9]]


def packed(width: int = 4) -> Batch:
    return collate(QUERIES, REPLIES, width=width, device="cpu")


# collate, gather, scatter


def test_a_batch_by_hand() -> None:
    batch = packed()
    assert batch.rows == [[5, 6, 7, 1, 2], [8, 3, 4, 9]]
    assert batch.reply_mask.tolist() == [[True, True, False, False], [True, True, True, False]]
    # position q - 1 + t of a row predicts reply token t: from 2 on in the first, from 5 + 0 on in the second
    assert batch.source.tolist() == [2, 3, 5, 6, 7]
    assert batch.targets.tolist() == [1, 2, 3, 4, 9]
    assert [x.dtype for x in (batch.reply_mask, batch.source)] == [torch.bool, torch.int64]


def test_every_gathered_position_is_the_one_before_its_token() -> None:
    batch = packed()
    tokens = torch.tensor([token for row in batch.rows for token in row])
    assert tokens[batch.source + 1].tolist() == batch.targets.tolist()


def test_gather_by_hand() -> None:
    hidden = torch.tensor([[0.0], [1], [2], [3], [4], [10], [11], [12], [13]])  # (S, H) = (9, 1)
    assert packed().gather(hidden).squeeze(1).tolist() == [2, 3, 10, 11, 12]


def test_scatter_by_hand() -> None:
    found = packed().scatter(torch.tensor([1.0, 2, 3, 4, 5]))
    assert found.tolist() == [[1, 2, 0, 0], [3, 4, 5, 0]]
    assert found.dtype == torch.float32


def test_gradients_come_back_through_scatter_and_gather() -> None:
    batch, hidden = packed(), torch.ones(9, 1, requires_grad=True)
    weights = torch.tensor([[1.0, 2, 100, 100], [3, 4, 5, 100]])  # 100 at masked places must not arrive
    (batch.scatter(batch.gather(hidden).squeeze(1)) * weights).sum().backward()
    assert hidden.grad.squeeze(1).tolist() == [0, 0, 1, 2, 0, 3, 4, 5, 0]


TOKENS = st.lists(st.integers(1, 99), min_size=1, max_size=5)


@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=4))
def test_any_batch_gives_its_tokens_back(episodes: list[tuple[list[int], list[int]]]) -> None:
    queries, replies = zip(*episodes, strict=True)
    batch = collate(queries, replies, width=7, device="cpu")
    for m, (query, reply) in enumerate(episodes):
        assert batch.rows[m] == query + reply
        assert batch.scatter(batch.targets)[m].tolist() == reply + [0] * (7 - len(reply))


def test_episodes_together_score_like_each_alone() -> None:
    torch.manual_seed(0)
    embed, head = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False).requires_grad_(False)

    def measure(queries: list[list[int]], replies: list[list[int]], width: int) -> Tensor:
        batch = collate(queries, replies, width=width, device="cpu")
        # causal: a state knows what stands before it in its row, and itself
        hidden = torch.cat([torch.cumsum(embed(torch.tensor(row)), dim=0) for row in batch.rows])
        logprobs, _ = token_logprobs(batch.gather(hidden), batch.targets, head, temperature=0.7, numbers=20)
        return batch.scatter(logprobs)

    together = measure(QUERIES, REPLIES, 4)
    for m in range(2):
        assert_close(together[m, : len(REPLIES[m])], measure([QUERIES[m]], [REPLIES[m]], len(REPLIES[m]))[0])


# token_logprobs

N, H, V = 7, 5, 11


def made(seed: int = 0) -> tuple[Tensor, Tensor, nn.Linear]:
    torch.manual_seed(seed)
    head = nn.Linear(H, V, bias=False).requires_grad_(False)
    return torch.randn(N, H, requires_grad=True), torch.randint(0, V, (N,)), head


def same(size: int) -> nn.Linear:
    """A head that gives its hidden states as logits."""
    head = nn.Linear(size, size, bias=False).requires_grad_(False)
    head.weight.copy_(torch.eye(size))
    return head


def test_two_tokens_by_hand() -> None:
    # logits (0, ln 3) at temperature 1: probabilities 1/4, 3/4; at temperature 0.5 logits double: 1/10, 9/10
    hidden, targets = torch.tensor([[0.0, 1.0986123], [0.0, 1.0986123]]), torch.tensor([0, 1])
    for temperature, expected in ((1.0, [0.25, 0.75]), (0.5, [0.1, 0.9])):
        logprobs, _ = token_logprobs(hidden, targets, same(2), temperature=temperature)
        assert_close(logprobs.exp(), torch.tensor(expected))


@pytest.mark.parametrize("chunk", [1, 3, N, 100])
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_numbers_and_gradients_equal_those_of_whole_logits(chunk: int, temperature: float) -> None:
    hidden, targets, head = made()
    weights, more = torch.randn(N), torch.randn(N)

    whole = torch.log_softmax(head(hidden) / temperature, dim=1)
    expected = whole.gather(1, targets[:, None]).squeeze(1), -(whole.exp() * whole).sum(1)
    found = token_logprobs(hidden, targets, head, temperature=temperature, numbers=chunk * V)
    gradients = []
    for logprobs, entropies in (expected, found):
        gradients.append(torch.autograd.grad((weights * logprobs + more * entropies).sum(), hidden))
    for one, other in zip((*expected, *gradients[0]), (*found, *gradients[1]), strict=True):
        assert_close(other, one, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        again = token_logprobs(hidden, targets, head, temperature=temperature, numbers=chunk * V)
        for one, other in zip(found, again, strict=True):
            assert_close(other, one, rtol=0, atol=0)
            assert not other.requires_grad


def test_without_an_entropy_term_the_gradient_is_that_of_the_log_probabilities() -> None:
    hidden, targets, head = made()
    whole = torch.log_softmax(head(hidden), dim=1).gather(1, targets[:, None]).squeeze(1)
    logprobs, _ = token_logprobs(hidden, targets, head, temperature=1.0, numbers=3 * V)
    for each in (whole, logprobs):
        each.gradient = torch.autograd.grad((each * torch.arange(N)).sum(), hidden)[0]
    assert_close(logprobs.gradient, whole.gradient)


@pytest.mark.parametrize("vocabulary", [1_000, 16_000])
def test_memory_depends_on_neither_vocabulary_nor_length(vocabulary: int) -> None:
    """The largest tensor that is made, forward and backward, holds `numbers` logits at most; none is kept."""
    numbers, made_tensors, kept = 32_000, [], []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            made_tensors.extend(x.numel() for x in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(x))
            return out

    head = nn.Linear(4, vocabulary, bias=False).requires_grad_(False)
    hidden = torch.randn(300, 4, requires_grad=True)

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() if tensor.data_ptr() != head.weight.data_ptr() else 0)
        return tensor

    with Watch(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logprobs, _ = token_logprobs(
            hidden, torch.zeros(300, dtype=torch.int64), head, temperature=1.0, numbers=numbers
        )
        logprobs.sum().backward()
    weight = head.weight.numel()  # its transpose is a view
    assert max(size for size in made_tensors if size != weight) <= numbers
    assert max(kept) <= 300 * 4


def test_results_are_float32_whatever_the_head_computes_in() -> None:
    hidden, targets, head = made()
    head = head.bfloat16()
    logprobs, entropies = token_logprobs(hidden.bfloat16(), targets, head, temperature=1.0)
    assert (logprobs.dtype, entropies.dtype) == (torch.float32, torch.float32)
    assert_close(logprobs, torch.log_softmax(head(hidden.bfloat16()).float(), 1).gather(1, targets[:, None]).squeeze(1))


def test_huge_logits_stay_finite() -> None:
    hidden = torch.tensor([[3e4, -3e4, 0.0]])
    logprobs, entropies = token_logprobs(hidden, torch.tensor([1]), same(3), temperature=1.0)
    assert (logprobs.item(), entropies.item()) == (-6e4, 0.0)


# microbatches


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200), st.booleans())
def test_microbatches_hold_every_index_once_within_the_budget(lengths: list[int], budget: int, padded: bool) -> None:
    def tokens(group: list[int]) -> int:
        real = [lengths[index] for index in group]
        return len(real) * max(real) if padded else sum(real)

    groups = microbatches(lengths, budget=budget, padded=padded)
    order = [index for group in groups for index in group]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[index] for index in order] == sorted(lengths)
    for group in groups:
        assert len(group) == 1 or tokens(group) <= budget
    for group, following in pairwise(groups):  # no room was left for the next one
        assert tokens([*group, following[0]]) > budget


def test_microbatches_by_hand() -> None:
    # sorted: 2 2 3 5 9 (indices 1 3 0 4 2); budget 9: 3 * 3 = 9 fits, 2 * 5 = 10 does not; 9 alone
    assert microbatches([3, 2, 9, 2, 5], budget=9) == [[1, 3, 0], [4], [2]]
    assert microbatches([7, 7], budget=6) == [[0], [1]]  # longer than the budget: alone
    assert microbatches([], budget=6) == []
    # without padding 2 + 2 + 3 = 7 fits 9, 12 does not
    assert microbatches([3, 2, 9, 2, 5], budget=9, padded=False) == [[1, 3, 0], [4], [2]]
    assert microbatches([3, 2, 9, 2, 5], budget=12, padded=False) == [[1, 3, 0, 4], [2]]


def test_the_chunk_fits_a_consumer_gpu() -> None:
    assert CHUNK_NUMBERS * 4 < 2**28  # bytes in float32, a few of which exist at once
    assert CHUNK_NUMBERS > 32 * 152_064  # Qwen2.5's vocabulary: not one position at a time
