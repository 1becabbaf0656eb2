"""Bodies as other endpoints write them: why a reply ended, what it says, what it cost, what went wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo.data import completion, finish, refusals, usage
from lite_huatuo.data import profile as profiles
from lite_huatuo.data.asking import Request, ask_again
from lite_huatuo.data.client import Teacher
from lite_huatuo.data.limits import Retries
from lite_huatuo.data.store import Store, ledger
from lite_huatuo.errors import ReplyError
from tests.scripted_server import ScriptedServer
from tests.teaching import KEY, echo, outcomes, profile_of, question, use

PROFILE = profiles.load("local", ("prices={input: 1.0, output: 10.0}",))
WORST = 9.0
CUT = ["length", "max_tokens", "MAX_TOKENS", "model_length", "max_output_tokens", "model_context_window_exceeded"]
BROKEN = ["insufficient_system_resource", "network_error", "error", "abort"]
UNKNOWN = ["tool_calls", "pause_turn", "OTHER", "what_is_this", "", None]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", KEY)


def body(content: Any = "Q", reason: Any = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more.pop("message", {})}
    used = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    return {"choices": [{"message": message, "finish_reason": reason}], "usage": used, **more}


def read(answer: dict[str, Any]) -> Any:
    return completion.read(answer, WORST, PROFILE)


def ask(folder: Path, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *prompts: str, **options: Any) -> Any:
    """Return what comes of the prompts where each has its own answer (a body; "Q" for the others)."""
    sent: list[str] = []

    async def post(self: Teacher, content: dict[str, Any]) -> Any:
        prompt = content["messages"][0]["content"]
        sent.append(prompt)
        return json.loads(json.dumps(answers.get(prompt, body())))

    monkeypatch.setattr(Teacher, "_post", post)
    with ScriptedServer() as server:
        work = lambda teacher: outcomes(teacher, [question(prompt) for prompt in prompts])  # noqa: E731
        return use(folder, profile_of(server), work, retries=Retries(tries=2, first=0.0), **options), sent


@pytest.mark.parametrize("reason", ["stop", "STOP", "eos", "end_turn", "COMPLETE", "FINISH_REASON_STOP"])
def test_a_whole_reply_has_many_names(reason: str) -> None:
    assert completion.text_of(read(body(reason=reason)), "test", PROFILE) == "Q"


@pytest.mark.parametrize("reason", [*CUT, *BROKEN, *UNKNOWN, "content_filter", "SAFETY", "sensitive", "RECITATION"])
def test_any_other_finish_reason_is_no_whole_reply_and_is_named(reason: str | None) -> None:
    kept = read(body(reason=reason))
    with pytest.raises(ReplyError) as caught:
        completion.text_of(kept, "test", PROFILE)
    assert caught.value.kind == f"finish reason {reason or 'none'}"
    assert kept.dollars == pytest.approx(600e-6)  # it is paid all the same


def test_a_gateways_stop_does_not_hide_the_providers_reason() -> None:
    for native, whole in (("MAX_TOKENS", False), ("SAFETY", False), ("STOP", True), ("completed", True), (None, True)):
        answer = body()
        answer["choices"][0]["native_finish_reason"] = native
        assert (read(answer).finish == "stop") == whole


def test_a_profile_may_know_more_names_of_whole_replies() -> None:
    known = profiles.load("local", ("whole_reasons=[fin, none]",))
    for reason in ("fin", "FIN", None):
        kept = completion.read(body(reason=reason), WORST, known)
        assert completion.text_of(kept, "test", known) == "Q"


@pytest.mark.parametrize(("reason", "kind"), [*((each, "cut") for each in CUT), *((each, "broken") for each in BROKEN)])
def test_what_a_limit_cut_and_what_broke_off_are_told_apart(reason: str, kind: str) -> None:
    assert finish.reply_kind(reason) == kind


def test_a_reply_that_is_not_whole_is_asked_for_again_and_counted_by_name(tmp_path: Path) -> None:
    import asyncio

    async def work(teacher: Teacher) -> Any:
        async def use_text(text: str) -> str:
            return text

        with pytest.raises(ReplyError, match=r"no usable reply \(finish reason max_tokens\): the last of 3: .* cut"):
            await ask_again(teacher.ask, Request("test", "q", 50), use_text)
        return teacher.usage.unusable

    async def post(content: dict[str, Any]) -> Any:
        return body(reason="max_tokens")

    async def run() -> Any:
        with Store(tmp_path / "store.db") as store:
            async with Teacher(PROFILE, store) as teacher:
                teacher._post = post  # type: ignore[method-assign]
                return await work(teacher)

    assert asyncio.run(run()) == {"finish reason max_tokens": 3}


def test_the_text_of_a_list_of_parts_is_the_reply() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Okay."}]}
    for content in (
        [{"type": "text", "text": "Q"}],
        [thinking, {"type": "text", "text": "Q"}],
        [{"type": "text", "text": "Q", "annotations": []}, {"type": "reference", "reference_ids": [1]}],
        ["Q"],
        {"type": "text", "text": "Q"},
    ):
        assert completion.text_of(read(body(content)), "test", PROFILE) == "Q"
    for content, kind in (([thinking], "only reasoning"), ([{"type": "image", "image": "x"}], "unknown part"),
                          ([{"type": "refusal", "refusal": "No."}], "finish reason refusal"),
                          ([], "empty")):  # fmt: skip
        with pytest.raises(ReplyError) as caught:
            completion.text_of(read(body(content)), "test", PROFILE)
        assert caught.value.kind == kind


def test_reasoning_beside_an_empty_text_is_told_with_what_to_set() -> None:
    for field in ("reasoning_content", "reasoning"):
        for content in ("", None):
            kept = read(body(content, message={field: "Let me think."}))
            with pytest.raises(ReplyError, match="all it wrote is reasoning; raise reasoning_tokens in the profile"):
                completion.text_of(kept, "test", PROFILE)


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ({"prompt_tokens": 120, "completion_tokens": 50, "total_tokens": 170}, (120, 50)),
        ({"prompt_tokens": 120, "completion_tokens": 50, "total_tokens": 2170}, (120, 2050)),
        ({"prompt_tokens": 120, "completion_tokens": 0, "total_tokens": 2170}, (120, 2050)),
        ({"prompt_tokens": 120, "total_tokens": 2170}, (120, 2050)),
        (
            {"prompt_tokens": 120, "completion_tokens": 50, "completion_tokens_details": {"reasoning_tokens": 2000}},
            (120, 2050),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 60, "completion_tokens_details": {"reasoning_tokens": 50}},
            (9, 60),
        ),
        ({"input_tokens": 120, "output_tokens": 50, "cache_read_input_tokens": 30}, (150, 50)),
        ({"promptTokenCount": 120, "candidatesTokenCount": 50, "totalTokenCount": 179}, (120, 59)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None),
        ({"prompt_tokens": 120, "completion_tokens": 0, "total_tokens": 120}, None),
        ({"prompt_tokens": 120}, None),
        ({"total_tokens": 170}, None),
        ({}, None),
        ({"prompt_tokens": 120, "completion_tokens": 50, "total_tokens": "many"}, None),
    ],
)  # fmt: skip
def test_no_billed_token_is_unseen(told: dict[str, Any], wanted: tuple[int, int] | None) -> None:
    found = usage.read({"usage": told}, "Q")
    assert (found and (found.input, found.output)) == wanted
    answer = body()
    answer["usage"] = told
    price = WORST if wanted is None else (wanted[0] + 10 * wanted[1]) / 1e6
    assert read(answer).dollars == pytest.approx(price)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ({"message": "json_schema is not supported", "code": 400}, "json_schema is not supported"),
        ("Content violates usage guidelines", "Content violates usage guidelines"),
        ({"message": "upstream died", "code": "weird_code"}, "weird_code (upstream died)"),
    ],
)
def test_an_error_in_place_of_a_reply_is_told_and_costs_nothing(
    error: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, _ = ask(tmp_path, {"odd": {"error": error}}, monkeypatch, "odd", "q")
    assert said[0].startswith("ReplyError: ")
    assert told in said[0]
    assert said[1] == "Q"
    assert sum(row.dollars for row in ledger(tmp_path / "store.db")) == pytest.approx(0.15)


@pytest.mark.parametrize(
    "answer",
    [{"error": {"message": "Add more.", "code": 402}}, {"error": {"message": "No such key.", "code": "401"}},
     {"error": {"message": "You have used it up.", "code": "insufficient_quota"}}],
)  # fmt: skip
def test_a_wrong_key_or_no_credit_in_place_of_a_reply_stops_all(
    answer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (said,), sent = ask(tmp_path, {"odd": answer}, monkeypatch, "odd")
    assert said.startswith("APIError")
    assert answer["error"]["message"] in said
    assert sent == ["odd"]
    assert sum(row.dollars for row in ledger(tmp_path / "store.db")) == 0


def test_an_error_beside_a_usage_is_counted_at_the_worst_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = {"error": {"message": "late"}, "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    ask(tmp_path, {"odd": odd}, monkeypatch, "odd")
    assert sum(row.dollars for row in ledger(tmp_path / "store.db")) > 0.1


@pytest.mark.parametrize("status", ["403", "451"])
def test_one_question_that_is_censored_fails_alone(status: str, tmp_path: Path) -> None:
    """The refusal says nothing: that the key is good shows in the calls beside it, or in those of an earlier run."""
    poison = lambda request, attempt: status if "bad" in request["messages"][0]["content"] else None  # noqa: E731
    with ScriptedServer(echo, faults=poison, latency=0.05) as server:
        asking = [question("bad"), question("q")]
        said = use(tmp_path, profile_of(server), lambda teacher: outcomes(teacher, asking))
        assert said == [f"ReplyError: the endpoint refused the request: HTTP {status} (scripted {status})", "Q"]
        said = use(tmp_path, profile_of(server), lambda teacher: outcomes(teacher, [question("bad")]))
        assert said[0].startswith("ReplyError")


@pytest.mark.parametrize(
    ("status", "code", "words", "works", "wanted"),
    [
        (401, "", "", True, "stop"),
        (402, "", "", True, "stop"),
        (403, "", "", False, "doubt"),
        (403, "", "", True, "record"),
        (451, "", "", False, "doubt"),
        (403, "", "Content flagged by moderation", False, "record"),
        (451, "", "blocked by our usage policies", False, "record"),
        (403, "", "invalid api key", True, "stop"),
        (403, "DataInspectionFailed", "", False, "record"),
        (403, "", "内容违规", False, "record"),
        (404, "", "", False, "stop"),
        (404, "", "", True, "record"),
        (400, "", "Incorrect API key provided", False, "stop"),
        (400, "", "bad", False, "record"),
        (400, "unsupported_parameter", "", True, "stop"),
        (429, "", "", True, "again"),
        (429, "insufficient_quota", "", True, "stop"),
        (503, "", "", False, "again"),
        (307, "", "", True, "stop"),
    ],
)
def test_a_refusal_is_sorted_by_the_evidence(status: int, code: str, words: str, works: bool, wanted: str) -> None:
    assert refusals.meaning(status, code, words, works=works) == wanted


@pytest.mark.parametrize(
    "answer",
    [{"error": {"message": "no"}}, {"error": "no"}, {"detail": "no"}, {"message": "no", "code": 400},
     {"errors": [{"message": "no"}]}, {"base_resp": {"status_code": 1004, "status_msg": "no"}},
     {"type": "error", "error": {"type": "overloaded_error", "message": "no"}}, [{"error": {"message": "no"}}],
     {"detail": [{"loc": ["body"], "msg": "no"}]}],
)  # fmt: skip
def test_errors_have_many_shapes(answer: Any) -> None:
    assert refusals.told(answer).words == "no"


@pytest.mark.parametrize("code", ["9" * 5000, "²", "٤٠٠", 10**400, -1, True, 0.5, [], {}, "\ud800"])
def test_a_code_of_any_kind_is_no_trace(code: Any) -> None:
    assert refusals.told({"error": {"message": "no", "code": code}}).status is None
