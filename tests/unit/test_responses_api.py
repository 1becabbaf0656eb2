"""The Responses API: what is sent is what the openai package's types say, what comes back is read by its types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.batch_create_params import BatchCreateParams
from openai.types.responses import Response, response_create_params
from openai.types.shared_params import Reasoning

from lite_huatuo.data import completion
from lite_huatuo.data import profile as profiles
from lite_huatuo.data.client import Teacher
from lite_huatuo.data.completion import Fault
from lite_huatuo.data.store import ledger
from lite_huatuo.errors import RecipeError, ReplyError
from tests import scripted_server
from tests.scripted_server import ScriptedServer
from tests.teaching import KEY, first_fails, outcomes, profile_of, question, use

RESPONSES = ("api=responses", "seed=false", "reasoning_efforts=[low]", "reasoning_effort=low", "json_schema=schema",
             "reasoning_tokens=100", "temperature=false")  # fmt: skip
SCHEMA = {"type": "object", "properties": {}, "required": []}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", KEY)


def echo(request: dict[str, Any]) -> str:
    return request["input"].upper()


def plain(**changes: Any) -> dict[str, Any]:
    """A whole answer, with parts exchanged."""
    return {**scripted_server.response({"model": "m", "input": "q" * 40}, "Q" * 20), **changes}


def message(text: str = "Q", **changes: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [part], **changes}


def read(answer: dict[str, Any]) -> str:
    profile = profiles.load("local", RESPONSES)
    return completion.text_of(completion.read(answer, 1.0, profile), "test", profile)


def test_what_is_sent_is_what_the_package_knows_and_what_comes_is_read_and_paid(tmp_path: Path) -> None:
    with ScriptedServer(echo) as server:
        asked = question("ask", schema=SCHEMA)
        said = use(tmp_path, profile_of(server, *RESPONSES), lambda teacher: teacher.ask(asked))
        sent, = server.requests
        assert dict(server.paths) == {"POST /v1/responses": 1}
    assert said == "ASK"
    form = {"type": "json_schema", "name": "reply", "strict": True, "schema": SCHEMA}
    assert sent == {"model": "default", "input": "ask", "max_output_tokens": 150, "store": False,
                    "reasoning": {"effort": "low"}, "text": {"format": form}}  # fmt: skip
    assert set(sent) <= set(response_create_params.ResponseCreateParamsNonStreaming.__annotations__) | set(
        response_create_params.ResponseCreateParamsBase.__annotations__
    )
    assert set(sent["reasoning"]) <= set(Reasoning.__annotations__)
    row, = ledger(tmp_path / "store.db")
    assert (row.input, row.output) == (1, 8)  # 7 of them reasoning
    assert row.dollars == pytest.approx(0.009)
    Response.model_validate(plain())  # the scripted answer is one


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("empty", "all it wrote is reasoning"),
        ("refusal", 'the model refused: "I cannot help with that."'),
        ("length", "finish reason max_output_tokens: the reply was cut at a limit"),
        ("filter", "the endpoint's content filter stopped the reply"),
    ],
)
def test_a_response_that_is_no_answer_is_told_and_not_paid_again(tmp_path: Path, kind: str, told: str) -> None:
    with ScriptedServer(echo, faults=first_fails(kind)) as server:
        for _ in range(2):
            with pytest.raises(ReplyError) as caught:
                use(tmp_path, profile_of(server, *RESPONSES), lambda teacher: teacher.ask(question("q")))
            assert told in str(caught.value)
        assert sum(server.calls.values()) == 1


def test_only_whole_messages_of_the_final_answer_are_the_reply() -> None:
    assert read(plain(output=[message("Hm.", phase="commentary"), message(phase="final_answer")])) == "Q"
    assert read(plain(output=[message("A"), message("B")])) == "AB"
    for output in ([message("Hm.", phase="commentary")], [message(status="incomplete")], [], [message(""), message("")],
                   [message(), {"type": "function_call", "name": "f", "arguments": "{}"}]):  # fmt: skip
        with pytest.raises(ReplyError):
            read(plain(output=output))
    for status in ("in_progress", "cancelled", "queued", "failed", "odd", None):
        with pytest.raises(ReplyError):
            read(plain(status=status))
    for broken in ({"output": None}, {"output": [{}]}, {"output": [{"type": "message"}]}, {"output": 1}):
        with pytest.raises(Fault, match="no response"):
            read(plain(**broken))


def test_a_failed_response_tells_its_error() -> None:
    told = completion.error_in(plain(status="failed", error={"code": "server_error", "message": "it broke"}))
    assert told is not None
    assert told.words == "it broke"
    assert completion.error_in(plain()) is None


def test_batches_ask_the_responses_api(tmp_path: Path) -> None:
    assert "/v1/responses" in str(BatchCreateParams.__annotations__["endpoint"])

    async def work(teacher: Teacher) -> list[str]:
        return await outcomes(teacher, [question("a"), question("b")])

    with ScriptedServer(echo) as server:
        said = use(tmp_path, profile_of(server, *RESPONSES), work, batch=True, quiet=0.05, poll=0.05)
        assert said == ["A", "B"]
        assert [batch["endpoint"] for batch in server.batches.values()] == ["/v1/responses"]
        lines = [json.loads(line) for line in server.files["file-0"].decode().splitlines()]
        assert {line["url"] for line in lines} == {"/v1/responses"}
        assert "POST /v1/responses" not in server.paths


def test_chat_completions_stay_what_they_were(tmp_path: Path) -> None:
    with ScriptedServer(lambda request: "Q") as server:
        assert use(tmp_path, profile_of(server), lambda teacher: teacher.ask(question("q"))) == "Q"
        assert dict(server.paths) == {"POST /v1/chat/completions": 1}


def test_the_responses_api_takes_no_seed() -> None:
    with pytest.raises(RecipeError, match="the Responses API takes none"):
        profiles.load("local", ("api=responses",))
