"""What `eval` takes for a reply of an endpoint: cut ones are, broken ones are asked for again; marks are counted."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lite_huatuo.cli import dry_run
from lite_huatuo.data import profile as profiles
from lite_huatuo.data import stats
from lite_huatuo.data.client import Teacher
from lite_huatuo.evaluation import predictions, score
from lite_huatuo.evaluation.targets import BROKEN_TRIES, Ask, EndpointWriter, Sampling, Written
from lite_huatuo.records import ExamQuestion


def write(folder: Path, reasons: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Written, int]:
    """Return what comes of one question to an endpoint whose calls end so, and how many calls there were."""
    sent, found = [0], []

    async def post(self: Teacher, body: dict[str, Any]) -> Any:
        reason = reasons[min(sent[0], len(reasons) - 1)]
        sent[0] += 1
        choice = {"message": {"content": f"The answer is {reason}"}, "finish_reason": reason}
        return {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 9}}

    monkeypatch.setattr(Teacher, "_post", post)
    with ExitStack() as stack:
        writer = EndpointWriter(profiles.load("local"), folder / "requests.sqlite", stack)
        writer.write([Ask("q", 0, "Which?")], Sampling(0.0, 1.0, 50, 0, "salt"), lambda kept: found.extend(kept))
    return found[0][1], sent[0]


@pytest.mark.parametrize("reason", ["length", "MAX_TOKENS", "model_length", "max_output_tokens"])
def test_a_reply_at_the_limit_is_a_cut_reply(reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reply, sent = write(tmp_path, [reason], monkeypatch)
    assert (reply.failure, reply.stopped, sent) == (None, False, 1)


@pytest.mark.parametrize("reason", ["network_error", "insufficient_system_resource", "what_is_this"])
def test_a_reply_that_was_broken_off_is_asked_for_again(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply, sent = write(tmp_path, [reason], monkeypatch)
    assert (reply.reply, sent) == ("", BROKEN_TRIES)
    assert reason in str(reply.failure)
    reply, sent = write(tmp_path, [reason, "stop"], monkeypatch)  # the next evaluation asks again, from there on
    assert (reply.reply, reply.stopped, reply.failure, sent) == ("The answer is stop", True, None, 2)


def test_a_filtered_reply_is_a_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reply, sent = write(tmp_path, ["SAFETY"], monkeypatch)
    assert (reply.stopped, reply.failure, sent) == (True, None, 1)


def test_scores_count_replies_that_thinking_marks_left_without_an_answer() -> None:
    question = ExamQuestion("q", "Which?", {"A": "Aspirin", "B": "Heparin"}, "B", "Heparin", "en", "x")
    replies = ["<ponder>The answer is B.", "<thinking>The answer is B.", "<thinking>A?</thinking>The answer is B."]
    rows = [
        predictions.row(question, run=0, asked="x", shuffled=False, rule="strict", reply=reply, tokens=9, stopped=True)
        for reply in replies
    ]
    found = score.summarise(rows, rule="strict")
    assert found["marks"] == {"unknown mark <ponder>": 1, "ended inside <thinking>": 1}
    assert (found["unread"]["count"], found["accuracy"]) == (2, pytest.approx(1 / 3))


def test_stats_and_the_dry_run_count_examples_that_hold_marks(tmp_path: Path) -> None:
    examples = [("I think of rest.", "Rest."), ("[THINK]Hm.[/THINK] Well.", "Rest."), ("So.", "<ponder> Rest.")]
    path = tmp_path / "x.sft.jsonl"
    rows = [{"id": str(n), "question": "Q?", "complex_cot": cot, "response": said}
            for n, (cot, said) in enumerate(examples)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert stats.stage(path)["thinking_marks"] == {"[THINK]": 1, "<ponder>": 1}
    made = [SimpleNamespace(complex_cot=cot, response=said) for cot, said in examples]
    told = dry_run._marked(made)  # type: ignore[arg-type]
    assert told == "2 of 3 examples hold thinking marks that a student would learn: [THINK] 1, <ponder> 1"
    assert dry_run._marked(made[:1]) == ""  # type: ignore[arg-type]


def test_failures_are_counted_by_the_finish_reasons_name(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("")
    reason = "no usable reply (finish reason max_tokens): the last of 3: it ended with finish reason max_tokens: cut"
    path.with_name("x.failed.jsonl").write_text(json.dumps({"id": "1", "step": "rewrite", "reason": reason}) + "\n")
    assert stats.stage(path)["failed"] == {"rewrite": {"no usable reply (finish reason max_tokens)": 1}}
