"""The teacher against a scripted server: what is sent, what comes back, and every fault."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from lite_huatuo.data.client import Teacher
from lite_huatuo.data.limits import Retries
from lite_huatuo.data.store import ledger
from lite_huatuo.errors import ReplyError
from tests.scripted_server import KINDS, ScriptedServer, seeded_faults
from tests.teaching import KEY, echo, first_fails, impatient, outcomes, profile_of, question, use


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", KEY)


@pytest.fixture(params=["aiohttp", "httpx"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways the openai package can speak HTTP; the second is used where aiohttp is missing."""

    def missing(**_: Any) -> None:
        raise RuntimeError

    if request.param == "httpx":
        monkeypatch.setattr(openai, "DefaultAioHttpClient", missing)


def test_a_reply_comes_back_and_a_rerun_is_free(tmp_path: Path) -> None:
    with ScriptedServer(echo) as server:
        requests = [question(f"q{number}") for number in range(20)]
        for _ in range(2):
            said = use(tmp_path, profile_of(server), lambda teacher: outcomes(teacher, requests))
            assert said == [f"Q{number}" for number in range(20)]
        assert sum(server.calls.values()) == 20
    row, = ledger(tmp_path / "store.db")
    assert (row.step, row.calls, row.failed, row.unanswered) == ("test", 20, 0, 0)
    assert row.dollars == pytest.approx((row.input + row.output) * 0.001)


def test_what_changes_the_reply_changes_the_request(tmp_path: Path) -> None:
    same = [
        question("q"),
        question("q", step="another"),  # the step is bookkeeping
    ]
    other = [
        question("r"),
        question("q", sample="2"),
        question("q", max_tokens=51),
        question("q", temperature=0.5),
        question("q", schema={"type": "object"}),
    ]
    with ScriptedServer(echo) as server:
        use(tmp_path, profile_of(server, "json_schema=schema"), lambda teacher: outcomes(teacher, same + other))
        assert sum(server.calls.values()) == 1 + len(other)
        use(tmp_path, profile_of(server, "json_schema=schema", "name=x"), lambda teacher: outcomes(teacher, same))
        assert sum(server.calls.values()) == 1 + len(other)
        use(tmp_path, profile_of(server, "json_schema=schema", "model=m2"), lambda teacher: outcomes(teacher, same))
        assert sum(server.calls.values()) == 2 + len(other)


def test_only_what_the_profile_accepts_is_sent(tmp_path: Path) -> None:
    wanted = question("q", temperature=0.7, schema={"type": "object"})
    luna = ("temperature=false", "seed=false", "token_field=max_completion_tokens", "reasoning_efforts=[low]",
            "reasoning_effort=low", "reasoning_tokens=1000", "json_schema=schema", "extra={store: false}")  # fmt: skip
    with ScriptedServer(echo) as server:
        use(tmp_path, profile_of(server), lambda teacher: teacher.ask(wanted))
        use(tmp_path, profile_of(server, *luna), lambda teacher: teacher.ask(wanted))
        plain, reasoning = server.requests
    messages = [{"role": "user", "content": "q"}]
    assert plain == {"model": "default", "messages": messages, "max_tokens": 50, "temperature": 0.7,
                     "seed": plain["seed"]}  # fmt: skip
    form = {"name": "reply", "strict": True, "schema": {"type": "object"}}
    assert reasoning == {"model": "default", "messages": messages, "max_completion_tokens": 1050, "store": False,
                         "reasoning_effort": "low",
                         "response_format": {"type": "json_schema", "json_schema": form}}  # fmt: skip


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("kind", ["429", "500", "503", "408", "hang", "cut", "not-json"])
def test_a_passing_fault_is_tried_again(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(echo, faults=first_fails(kind)) as server:
        impatient(server, monkeypatch)
        assert use(tmp_path, profile_of(server), lambda teacher: teacher.ask(question("q"))) == "Q"
        assert list(server.calls.values()) == [2]
    row, = ledger(tmp_path / "store.db")
    assert (row.calls, row.failed, row.unanswered) == (1, 1, 0)
    billed = kind in ("hang", "cut", "not-json")  # nobody knows whether it was: it counts at its worst case
    reply = (row.input + row.output) * 0.001
    assert (row.dollars > reply + 0.05) == billed
    assert billed or row.dollars == pytest.approx(reply)


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("429", r"HTTP 429 \(scripted 429\)"),
        ("500", r"HTTP 500 \(scripted 500\)"),
        ("hang", "no answer within 0.5 seconds"),
        ("cut", r"the connection to http://127\.0\.0\.1:\d+/v1 broke \(.+\)"),
        ("not-json", "an answer that is no JSON"),
    ],
)
def test_a_fault_that_stays_fails_the_request_with_its_reason(tmp_path: Path, kind: str, reason: str) -> None:
    with ScriptedServer(echo, faults=lambda request, attempt: kind) as server:
        patience = "timeout=0.5" if kind == "hang" else "timeout=300"
        profile, retries = profile_of(server, patience), Retries(tries=3, first=0.01)
        with pytest.raises(ReplyError, match=rf"^test: 3 tries failed; the last: {reason}$"):
            use(tmp_path, profile, lambda teacher: teacher.ask(question("q")), retries=retries)
        assert list(server.calls.values()) == [3] or kind == "hang"  # one may be over before a busy server has it
    row, = ledger(tmp_path / "store.db")
    assert (row.calls, row.failed, row.unanswered) == (0, 3, 0)


@pytest.mark.usefixtures("transport")
def test_where_nobody_listens_that_is_told_and_costs_nothing(tmp_path: Path) -> None:
    with ScriptedServer(echo) as server:
        profile = profile_of(server)
    with pytest.raises(ReplyError, match=rf"2 tries failed; the last: no connection to {server.url} \(.+Error\)"):
        use(tmp_path, profile, lambda teacher: teacher.ask(question("q")), retries=Retries(tries=2, first=0.01))
    row, = ledger(tmp_path / "store.db")
    assert (row.failed, row.dollars) == (2, 0.0)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("empty", "test: the reply is empty"),
        ("refusal", 'test: the model refused: "I cannot help with that."'),
        ("length", "test: the reply was cut at max_tokens; give this step more tokens"),
        ("filter", "test: the endpoint's content filter stopped the reply"),
    ],
)
def test_a_reply_that_is_no_answer_is_told_and_not_paid_again(tmp_path: Path, kind: str, told: str) -> None:
    with ScriptedServer(echo, faults=first_fails(kind)) as server:
        for _ in range(2):
            with pytest.raises(ReplyError) as caught:
                use(tmp_path, profile_of(server, "seed=false"), lambda teacher: teacher.ask(question("q")))
            assert str(caught.value) == told
        assert sum(server.calls.values()) == 1
        other = question("q", sample="2")
        assert use(tmp_path, profile_of(server, "seed=false"), lambda teacher: teacher.ask(other)) == "Q"


def odd(**changes: Any) -> Any:
    """A completion of another kind: values of its choice, message or usage replaced."""
    message = {"content": changes.pop("content", "Q"), **changes.pop("message", {})}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, **changes.pop("usage", {})}
    return {"choices": [{"message": message, "finish_reason": "stop", **changes}], "usage": usage}


def ask_odd(folder: Path, answer: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], int]:
    """Return what comes of two requests of which one gets this answer every time, and how often that one was sent."""
    sent = 0

    async def post(self: Teacher, body: dict[str, Any]) -> Any:
        nonlocal sent
        if body["messages"][0]["content"] != "odd":
            return odd()
        sent += 1
        return json.loads(json.dumps(answer))

    monkeypatch.setattr(Teacher, "_post", post)
    with ScriptedServer() as server:
        asking = [question("odd"), question("q")]
        retries = Retries(tries=3, first=0.0)
        said = use(folder, profile_of(server), lambda teacher: outcomes(teacher, asking), retries=retries)
    return said, sent


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (odd(finish_reason={"a": 1}), "an answer whose finish_reason is no text"),
        (odd(finish_reason=[1]), "an answer whose finish_reason is no text"),
        (odd(finish_reason=7), "an answer whose finish_reason is no text"),
        (odd(finish_reason="\ud800"), "an answer whose finish_reason is no text"),
        (odd(content=[1]), "an answer that is no completion"),
        ({"choices": [[1]]}, "an answer that is no completion"),
        ({"choices": {"0": 1}}, "an answer that is no completion"),
        ([], "an answer that is no completion"),
    ],
)
def test_an_answer_that_cannot_be_kept_is_tried_again_and_told(
    answer: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, sent = ask_odd(tmp_path, answer, monkeypatch)
    assert said == [f"ReplyError: test: 3 tries failed; the last: {reason}", "Q"]
    assert sent == 3
    assert sum(row.failed for row in ledger(tmp_path / "store.db")) == 3


@pytest.mark.parametrize("answer", [odd(content="half \ud83d"), odd(message={"content": "\udc00", "refusal": None})])
def test_half_a_character_is_no_answer_and_not_paid_again(
    answer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sent in (1, 0):
        said = ask_odd(tmp_path, answer, monkeypatch)
        assert said == (["Unusable: test: the reply holds half a character (a lone surrogate)", "Q"], sent)


def test_half_a_character_in_a_refusal_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, _ = ask_odd(tmp_path, odd(message={"refusal": "No \ud83d"}), monkeypatch)
    assert said == ['Unusable: test: the model refused: "No \\ud83d"', "Q"]


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 10**30},
        {"completion_tokens": 2**63},
        {"prompt_tokens": -1},
        {"prompt_tokens": 1.5},
        {"completion_tokens": None},
        {"prompt_tokens_details": {"cached_tokens": 8}},
    ],
)
def test_a_usage_that_cannot_be_counts_at_the_worst_case(
    usage: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, sent = ask_odd(tmp_path, odd(usage=usage), monkeypatch)
    assert (said, sent) == (["Q", "Q"], 1)
    row, = ledger(tmp_path / "store.db")
    assert (row.calls, row.input, row.output) == (2, 7, 3)  # of the other one
    assert row.dollars == pytest.approx(0.01 + 0.001 * (3 + 64 + 50))


def test_half_a_character_in_what_an_endpoint_says_of_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def post(self: Teacher, body: dict[str, Any]) -> Any:
        raise self._problem(status, {"error": {"message": "it broke \ud83d"}})

    monkeypatch.setattr(Teacher, "_post", post)
    with ScriptedServer() as server:
        starts = {500: "ReplyError: test: 2 tries", 400: "ReplyError: the endpoint", 404: "APIError"}
        for status, start in starts.items():  # noqa: B007
            work = lambda teacher: outcomes(teacher, [question("q")])  # noqa: E731
            said, = use(tmp_path, profile_of(server), work, retries=Retries(tries=2, first=0.0))
            assert said.startswith(start)
            assert "it broke \\ud83d" in said
    assert sum(row.failed for row in ledger(tmp_path / "store.db")) == 4


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("401", "set the environment variable CANARY_KEY"),
        ("402", "no credit"),
        ("403", "may not use this model"),
        ("404", "check model (default) and base_url"),
        ("307", "set base_url to its real address"),
    ],
)
def test_what_no_request_gets_past_stops_all_at_once(tmp_path: Path, kind: str, told: str) -> None:
    async def work(teacher: Teacher) -> list[str]:
        first = await outcomes(teacher, [question(f"q{number}") for number in range(50)])
        return first + await outcomes(teacher, [question("later")])

    with ScriptedServer(echo, faults=lambda request, attempt: kind, latency=0.05) as server:
        said = use(tmp_path, profile_of(server, "concurrency=4"), work)
        assert all(text.startswith(f"APIError: local at {server.url}: HTTP {kind}") and told in text for text in said)
        assert sum(server.calls.values()) == 4  # those that were under way


@pytest.mark.parametrize("kind", ["400", "422"])
def test_a_request_the_endpoint_cannot_take_fails_alone(tmp_path: Path, kind: str) -> None:
    faults = lambda request, attempt: kind if "bad" in request["messages"][0]["content"] else None  # noqa: E731
    with ScriptedServer(echo, faults=faults) as server:
        said = use(tmp_path, profile_of(server), lambda teacher: outcomes(teacher, [question("bad"), question("q")]))
        assert said == [f"ReplyError: the endpoint refused the request: HTTP {kind} (scripted {kind})", "Q"]
        assert sum(server.calls.values()) == 2


def test_thirty_per_cent_faults_end_in_replies_or_reasons_and_the_counts_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(teacher: Teacher) -> tuple[list[str], Any]:
        return await outcomes(teacher, [question(f"q{number}") for number in range(200)]), teacher.usage

    with ScriptedServer(echo, faults=seeded_faults(1, 0.3)) as server:
        impatient(server, monkeypatch)
        said, usage = use(tmp_path, profile_of(server, "concurrency=64"), work)
        sent, faulted = sum(server.calls.values()), server.faulted
        assert set(faulted) == set(KINDS)
    final = sum(faulted[kind] for kind in ("empty", "refusal", "length", "filter"))
    assert sum(text.startswith("Unusable") for text in said) == final
    assert sum(text.startswith("Q") for text in said) == 200 - final - faulted["broken"]
    row, = ledger(tmp_path / "store.db")
    assert (row.calls, row.failed, row.unanswered) == (200, sent - 200, 0)
    assert (usage.sent, usage.answered, usage.failed) == (sent, 200, sent - 200)


def test_retry_after_holds_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = asyncio.sleep

    async def watched(seconds: float) -> None:
        seen.append(seconds)
        await real(0)

    with ScriptedServer(echo, faults=first_fails("429"), retry_after="7") as server:
        profile = profile_of(server, "concurrency=2")

        async def work(teacher: Teacher) -> str:
            now = [0.0]
            teacher._limits._clock = lambda: now[0]

            async def pass_time(seconds: float) -> None:
                now[0] += seconds
                seen.append(seconds)

            teacher._limits._sleep = pass_time
            monkeypatch.setattr(asyncio, "sleep", watched)
            return await teacher.ask(question("q"))

        assert use(tmp_path, profile, work) == "Q"
    assert seen == [7.0, 7.0]  # the request's own wait, and the pause of all


def test_text_of_every_kind_comes_back_as_it_was(tmp_path: Path) -> None:
    texts = ["麻疹 😀", "a\u2028b\r\nc\0d", '{"a": "}"}', "x" * 300_000]
    replies = dict(zip(["0", "1", "2", "3"], texts, strict=True))
    with ScriptedServer(lambda request: replies[request["messages"][0]["content"]]) as server:
        for _ in range(2):
            said = use(tmp_path, profile_of(server), lambda teacher: outcomes(teacher, [question(n) for n in replies]))
            assert said == texts
    assert json.loads(json.dumps(said)) == texts
