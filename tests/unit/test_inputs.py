"""What both stages read: nothing evaluated is trained on, nothing is lost unseen, and a seed gives the same split."""

from __future__ import annotations

from pathlib import Path

import pytest

from lite_huatuo import jsonl
from lite_huatuo.errors import RecordError
from lite_huatuo.training import inputs
from lite_huatuo.training.inputs import Inputs


def problems(first: int, count: int) -> list[dict]:
    return [
        {"id": f"p{n}", "question": f"Patient {n}: which cure?", "ground_truth": f"cure {n % 5}"}
        for n in range(first, first + count)
    ]


def examples(first: int, count: int) -> list[dict]:
    return [
        {"id": f"s{n}", "question": f"Patient {n}: which cure?", "complex_cot": "Hmm.", "response": f"cure {n}"}
        for n in range(first, first + count)
    ]


@pytest.fixture
def read(tmp_path: Path):
    def run(sft: list[dict], pool: list[dict], held: list[dict] | None = None, **changes: object) -> Inputs:
        files = {"sft": sft, "problems": pool, "heldout": held}
        for name, rows in files.items():
            jsonl.write(tmp_path / f"{name}.jsonl", rows or [])
        arguments = {name: None if rows is None else str(tmp_path / f"{name}.jsonl") for name, rows in files.items()}
        return inputs.read(
            **{
                **arguments,
                "heldout_share": 0.1,
                "sft_limit": None,
                "problems_limit": None,
                "heldout_limit": None,
                "seed": 1,
                "selection_problems": 4,
                **changes,
            }
        )

    return run


def words(records: list) -> set[str]:
    return {"".join(c for c in record.question.lower() if c.isalnum()) for record in records}


def assert_nothing_evaluated_is_trained_on(found: Inputs) -> None:
    trained = words(found.problems)
    assert not trained & words(found.selection)
    assert not trained & words(found.heldout)
    assert not words(found.selection) & words(found.heldout)
    assert not words(found.sft) & (words(found.heldout) | words(found.selection))


def test_a_share_of_the_problems_is_held_out(read) -> None:
    found = read(examples(900, 5), problems(0, 40))
    assert (len(found.heldout), len(found.selection), len(found.problems), found.removed) == (4, 4, 32, 0)
    assert words(found.heldout + found.selection + found.problems) == words_of(problems(0, 40))
    assert_nothing_evaluated_is_trained_on(found)


def words_of(rows: list[dict]) -> set[str]:
    return {"".join(c for c in row["question"].lower() if c.isalnum()) for row in rows}


def test_the_held_out_share_is_drawn_from_everywhere(read) -> None:
    found = read(examples(900, 5), problems(0, 200), heldout_share=0.2)
    places = sorted(int(problem.id[1:]) for problem in found.heldout)
    assert len(places) == 40
    assert places[0] < 40 < 160 < places[-1]


@pytest.mark.parametrize(("share", "limit", "count"), [(0.1, None, 4), (0.1, 3, 3), (0.001, None, 1), (0.5, 100, 20)])
def test_the_held_out_share_is_at_least_one_and_at_most_the_limit(read, share: float, limit: int | None, count: int):
    found = read(examples(900, 5), problems(0, 40), heldout_share=share, heldout_limit=limit)
    assert len(found.heldout) == count


def test_a_seed_gives_the_same_split_and_another_seed_another(read) -> None:
    first, again, other = (read(examples(900, 5), problems(0, 40), seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert words(first.heldout) != words(other.heldout)


def test_a_held_out_file_is_kept_whole_and_its_questions_leave_the_training(read) -> None:
    found = read(examples(0, 10), problems(0, 40), problems(5, 3) + problems(100, 2))
    assert len(found.heldout) == 5
    assert len(found.selection) + len(found.problems) == 37  # three are held out
    assert words(found.sft) == words_of(examples(0, 10)) - words(found.heldout) - words(found.selection)
    assert found.removed == 3 + 10 - len(found.sft)
    assert_nothing_evaluated_is_trained_on(found)


def test_a_question_split_off_for_evaluation_leaves_the_sft_examples(read) -> None:
    found = read(examples(0, 40), problems(0, 40))
    assert len(found.sft) < 40
    assert found.removed == 40 - len(found.sft)
    assert_nothing_evaluated_is_trained_on(found)


@pytest.mark.parametrize(
    "written", ["PATIENT 7: WHICH CURE?", "patient 7 — which\u2028cure", "  Patient 7:which cure ?？"]
)
def test_the_same_words_written_otherwise_are_the_same_question(read, written: str) -> None:
    found = read(examples(5, 5), problems(0, 10), [{"question": written, "ground_truth": "x"}], selection_problems=1)
    assert "patient7whichcure" not in words([*found.sft, *found.problems, *found.selection])
    assert_nothing_evaluated_is_trained_on(found)


def test_chinese_questions_are_compared_too(read) -> None:
    held = [{"question": "哪种金属在肝脏沉积？", "ground_truth": "铜"}]
    pool = [*problems(0, 10), {"question": "哪种金属，在肝脏沉积", "ground_truth": "铜"}]
    assert read(examples(0, 3), pool, held).removed == 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("selection", [1, 6])
def test_one_question_under_several_ids_is_never_on_two_sides(read, seed: int, selection: int) -> None:
    pool = problems(0, 10) + [{**row, "id": f"again-{row['id']}"} for row in problems(0, 10)]
    found = read(examples(900, 3), pool, seed=seed, selection_problems=selection)
    assert_nothing_evaluated_is_trained_on(found)
    assert len(found.heldout) + len(found.selection) + len(found.problems) + found.removed == 20


def test_limits_bound_what_is_read(read) -> None:
    found = read(
        examples(900, 50),
        problems(0, 50),
        problems(100, 50),
        sft_limit=10,
        problems_limit=20,
        heldout_limit=5,
        selection_problems=8,
    )
    assert (len(found.sft), len(found.heldout), len(found.selection), len(found.problems)) == (10, 5, 8, 12)


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ((examples(900, 5), problems(0, 4)), {}),  # one held out, three to select with, none to train on
        ((examples(900, 5), problems(0, 1)), {"selection_problems": 1}),
        ((examples(900, 5), problems(0, 40)), {"selection_problems": 36}),
        ((examples(0, 3), problems(0, 40), problems(0, 3)), {}),  # every example is a held-out question
    ],
)
def test_nothing_left_to_train_on_is_told_with_what_to_do(read, arguments: tuple, changes: dict) -> None:
    with pytest.raises(RecordError, match=r"left to train on beside \d+ held-out.*lower data\.heldout_share"):
        read(*arguments, **changes)


def test_an_empty_file_is_told(read) -> None:
    with pytest.raises(RecordError, match=r"sft\.jsonl: holds no rows"):
        read([], problems(0, 40))
