"""What both stages read: SFT examples and problems, split so that nothing evaluated is ever trained on."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from lite_huatuo.data import sources
from lite_huatuo.errors import RecordError
from lite_huatuo.models.tokenizer import StudentTokenizer
from lite_huatuo.records import SFTExample, VerifiableProblem


@dataclass(frozen=True)
class Inputs:
    """`problems` for PPO, `selection` to choose its best checkpoint, `heldout` for the result table; all disjoint.

    `removed` counts SFT examples and problems left out because their question is an evaluated one.
    """

    sft: list[SFTExample]
    problems: list[VerifiableProblem]
    selection: list[VerifiableProblem]
    heldout: list[VerifiableProblem]
    removed: int


def read(
    *,
    sft: str,
    problems: str,
    heldout: str | None,
    heldout_share: float,
    sft_limit: int | None,
    problems_limit: int | None,
    heldout_limit: int | None,
    seed: int,
    selection_problems: int,
) -> Inputs:
    """Load and split; arguments as in a recipe's `data` section and `ppo.selection_problems`."""
    with _told("data.problems"):
        pool = sources.load_problems(problems, limit=problems_limit, seed=seed)
    random.Random(seed).shuffle(pool)
    if heldout is not None:
        with _told("data.heldout"):
            held = sources.load_problems(heldout, limit=heldout_limit, seed=seed)
    else:
        count = min(max(1, round(heldout_share * len(pool))), heldout_limit or len(pool))
        held, pool = pool[:count], pool[count:]
    asked = {_key(problem.question) for problem in held}
    free = [problem for problem in pool if _key(problem.question) not in asked]
    selection = free[:selection_problems]
    asked |= {_key(problem.question) for problem in selection}
    kept_pool = [problem for problem in free[selection_problems:] if _key(problem.question) not in asked]
    with _told("data.sft"):
        examples = sources.load_sft(sft, limit=sft_limit, seed=seed)
    kept_examples = [example for example in examples if _key(example.question) not in asked]
    removed = len(examples) + len(pool) - len(kept_examples) - len(selection) - len(kept_pool)
    for key, source, kept in (("data.sft", sft, kept_examples), ("data.problems", problems, kept_pool)):
        if not kept:
            raise RecordError(
                f"{key}: {source}: nothing is left to train on beside {len(held)} held-out and {len(selection)} "
                "selection problems; give more, or lower data.heldout_share and ppo.selection_problems"
            )
    return Inputs(kept_examples, kept_pool, selection, held, removed)


@contextmanager
def _told(key: str) -> Iterator[None]:
    """Say which key of the recipe an error is of."""
    try:
        yield
    except RecordError as error:
        raise RecordError(f"{key}: {error}") from None


def facts(data: Inputs, *names: str) -> dict[str, dict[str, Any]]:
    """Return the count and the digest of the named parts: equal where a resumed run sees what it saw before."""
    found = {}
    for name in names:
        rows = [json.dumps(asdict(row), sort_keys=True) for row in getattr(data, name)]
        digest = hashlib.sha256("\n".join(rows).encode()).hexdigest()
        found[name] = {"rows": len(rows), "sha256": digest[:16]}
    return found


def pick(problems: Sequence[VerifiableProblem], start: int, count: int, seed: int) -> list[VerifiableProblem]:
    """Return episodes start … start+count of an endless run over the problems, shuffled anew each pass by the seed."""
    places = [divmod(position, len(problems)) for position in range(start, start + count)]
    orders = {}
    for lap in {lap for lap, _ in places}:
        orders[lap] = list(range(len(problems)))
        random.Random(f"{seed}/{lap}").shuffle(orders[lap])
    return [problems[orders[lap][place]] for lap, place in places]


def askable(problems: list[VerifiableProblem], tokenizer: StudentTokenizer, limit: int) -> list[VerifiableProblem]:
    """Return the problems whose query has at most `limit` tokens; RecordError where none has."""
    kept = [problem for problem in problems if len(tokenizer.query(problem.question)) <= limit]
    if not kept:
        raise RecordError(f"data.problems: no query fits data.max_query_length {limit}; raise it")
    return kept


def _key(question: str) -> str:
    """Return a question's letters and digits, lower case: equal for the same words."""
    return "".join(character for character in question.lower() if character.isalnum())
