"""An OpenAI-compatible server on loopback that says what a test tells it to, breaks when it is told to, and counts.

In a test, on a thread:   with ScriptedServer(reply, faults=seeded_faults(0, 0.3)) as server: … server.url …
As a process:             python -m tests.scripted_server --port 0 --latency 0.2   (prints its base URL)

`reply(request) -> str` makes the text of the answer from the request's JSON. `faults(request, attempt) -> str | None`
names what goes wrong with the attempt-th call (from 0) of equal content: an HTTP status ("429", "500", "401", "307") or
one of KINDS. Chat completions, responses, files and batches are served; a batch is done once it was looked at
`batch_polls` times.
`batch_fate(number)` is how a batch ends: "completed", "expired" (every second line not run) or "failed:<code>".
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

Reply = Callable[[dict[str, Any]], str]
Faults = Callable[[dict[str, Any], int], "str | None"]
Answer = tuple[int, list[str], bytes]  # status, header lines, body

KINDS = ("429", "500", "hang", "cut", "not-json", "broken", "empty", "refusal", "length", "filter")


def content_of(request: dict[str, Any]) -> str:
    """Return the hash that tells requests of equal content."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def seeded_faults(seed: int, share: float, kinds: tuple[str, ...] = KINDS) -> Faults:
    """Return a plan in which `share` of all calls fail, drawn from the seed, the content and the attempt alone."""

    def plan(request: dict[str, Any], attempt: int) -> str | None:
        draw = random.Random(f"{seed}/{content_of(request)}/{attempt}")
        return draw.choice(kinds) if draw.random() < share else None

    return plan


class Abort(Exception):
    """Close the connection without an answer."""


class ScriptedServer:
    """The server and what it saw: `calls` by content, `requests` in order, `paths`, `keys`, the `most` at one time."""

    def __init__(
        self,
        reply: Reply = lambda request: "fine",
        *,
        faults: Faults = lambda request, attempt: None,
        latency: float = 0.0,
        retry_after: str = "0",
        port: int = 0,
        batch_polls: int = 1,
        batch_fate: Callable[[int], str] = lambda number: "completed",
    ) -> None:
        self.reply, self.faults, self.latency, self.retry_after = reply, faults, latency, retry_after
        self.batch_polls, self.batch_fate, self.port = batch_polls, batch_fate, port
        self.calls: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.paths: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.faulted: Counter[str] = Counter()
        self.now, self.most = 0, 0
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.location = ""  # where a 3xx points
        self.down = False  # cut every connection
        self.drop_first = ""  # "POST /v1/…": do what is asked, once, and cut the connection instead of answering

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    # The thread.

    def __enter__(self) -> ScriptedServer:
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def _run(self, ready: threading.Event) -> None:
        self._loop.run_until_complete(self.serve(lambda: ready.set()))
        self._loop.close()

    async def serve(self, ready: Callable[[], object]) -> None:
        """Serve until stopped; `ready` is called once the port is known."""
        self._stop = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, limit=1 << 26, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        ready()
        await self._stop.wait()
        server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                status, extra, answer = await self._answer(method, path, headers, body)
                if self.down:
                    raise Abort
                if self.drop_first == f"{method} {path}":
                    self.drop_first = ""
                    raise Abort
                lines = [f"HTTP/1.1 {status} Scripted", f"content-length: {len(answer)}", *extra, "", ""]
                writer.write("\r\n".join(lines).encode() + answer)
                await writer.drain()
        except (Abort, asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            writer.transport.abort()  # a reset in place of an answer, as a dying proxy would send

    # The endpoints.

    async def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Return (status, header lines, body) of one call."""
        path, _, _query = path.partition("?")
        self.paths[f"{method} {path}"] += 1
        self.keys.add(headers.get("authorization", ""))
        if path in ("/v1/chat/completions", "/v1/responses"):
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                return await self._chat(json.loads(body))
            finally:
                self.now -= 1
        parts = path.split("/")[2:]
        if parts == ["files"]:
            name = f"file-{len(self.files)}"
            self.files[name] = _upload(body)
            return _json({"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "b", "purpose": path})
        if parts[0] == "files" and parts[2:] == ["content"]:
            return 200, ["content-type: application/octet-stream"], self.files[parts[1]]
        if parts == ["batches"] and method == "POST":
            return _json(self._new_batch(json.loads(body)))
        if parts == ["batches"]:
            newest = list(self.batches.values())[::-1]
            return _json({"object": "list", "data": newest, "has_more": False, "first_id": None, "last_id": None})
        if parts[0] == "batches":
            return _json(self._look_at_batch(self.batches[parts[1]]))
        return _error(404, "no such path")

    async def _chat(self, request: dict[str, Any]) -> Answer:
        self.requests.append(request)
        fault = self._fault(request)
        if self.latency:
            await asyncio.sleep(self.latency)
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "cut":
            raise Abort
        if fault == "not-json":
            return 200, ["content-type: text/html"], b"<html>gateway</html>"
        if fault and fault.isdigit():
            headers = (f"retry-after: {self.retry_after}", f"location: {self.location}")
            return _error(int(fault), f"scripted {fault}", *headers)
        return _json(answer(request, self.reply(request), fault))

    def _fault(self, request: dict[str, Any]) -> str | None:
        content = content_of(request)
        fault = self.faults(request, self.calls[content])
        self.calls[content] += 1
        if fault:
            self.faulted[fault] += 1
        return fault

    # Batches.

    def _new_batch(self, wanted: dict[str, Any]) -> dict[str, Any]:
        name = f"batch_{len(self.batches)}"
        self.batches[name] = {
            "id": name, "object": "batch", "endpoint": wanted["endpoint"], "status": "validating", "created_at": 1,
            "completion_window": wanted["completion_window"], "input_file_id": wanted["input_file_id"],
            "metadata": wanted.get("metadata"), "output_file_id": None, "error_file_id": None, "errors": None,
            "looks": 0,
        }  # fmt: skip
        return self.batches[name]

    def _look_at_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch["looks"] += 1
        if batch["status"] in ("validating", "in_progress"):
            batch["status"] = "in_progress"
            if batch["looks"] >= self.batch_polls:
                self._run_batch(batch, self.batch_fate(int(batch["id"].split("_")[1])))
        return batch

    def _run_batch(self, batch: dict[str, Any], fate: str) -> None:
        """Answer a batch's lines. An expired batch answers every second one; a failed one none."""
        batch["status"] = fate.partition(":")[0]
        if batch["status"] == "failed":
            batch["errors"] = {"object": "list", "data": [{"code": fate.partition(":")[2], "message": "scripted"}]}
            return
        good, bad = [], []
        for number, line in enumerate(self.files[batch["input_file_id"]].decode().split("\n")[:-1]):
            row = json.loads(line)
            late = fate == "expired" and number % 2
            fault = None if late else self._fault(row["body"])
            result = {"id": f"r{number}", "custom_id": row["custom_id"], "response": None, "error": None}
            if late or fault in ("hang", "cut", "not-json"):
                bad.append({**result, "error": {"code": "batch_expired", "message": "not run in time"}})
            elif fault and fault.isdigit():
                error = {"error": {"message": f"scripted {fault}", "code": None}}
                bad.append({**result, "response": {"status_code": int(fault), "request_id": "r", "body": error}})
            else:
                self.requests.append(row["body"])
                body = answer(row["body"], self.reply(row["body"]), fault)
                good.append({**result, "response": {"status_code": 200, "request_id": "r", "body": body}})
        for field, rows in (("output_file_id", good), ("error_file_id", bad)):
            if rows:
                batch[field] = f"file-{len(self.files)}"
                self.files[batch[field]] = "".join(json.dumps(row) + "\n" for row in reversed(rows)).encode()


def answer(request: dict[str, Any], text: str, fault: str | None = None) -> dict[str, Any]:
    """Return the body of the answer in the form that was asked."""
    return (response if "input" in request else completion)(request, text, fault)


def response(request: dict[str, Any], text: str, fault: str | None = None) -> dict[str, Any]:
    """Return the body of a Responses API answer: 7 tokens of reasoning, others as characters / 4, one at least."""
    reasoning = {"id": "rs_1", "type": "reasoning", "summary": []}
    part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    if fault in ("empty", "broken"):
        part["text"] = "" if fault == "empty" else '{"unexpected": [1, 2}'
    elif fault == "refusal":
        part = {"type": "refusal", "refusal": "I cannot help with that."}
    why = {"length": "max_output_tokens", "filter": "content_filter"}.get(fault or "")
    status = "incomplete" if why else "completed"
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": [part]}
    prompt, used = max(1, len(request["input"]) // 4), 7 + max(1, len(part.get("text", "")) // 4)
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "model": request["model"], "status": status,
        "error": None, "incomplete_details": {"reason": why} if why else None, "instructions": None, "metadata": {},
        "output": [reasoning, message], "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto",
        "tools": [], "top_p": 1.0, "text": request.get("text", {"format": {"type": "text"}}),
        "usage": {"input_tokens": prompt, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                  "output_tokens": used, "output_tokens_details": {"reasoning_tokens": 7},
                  "total_tokens": prompt + used},
    }  # fmt: skip


def completion(request: dict[str, Any], text: str, fault: str | None = None) -> dict[str, Any]:
    """Return the body of a chat completion; tokens are counted as characters / 4, one at least."""
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    finish = {"length": "length", "filter": "content_filter"}.get(fault or "", "stop")
    if fault == "empty":
        message["content"] = ""
    elif fault == "refusal":
        message.update(content=None, refusal="I cannot help with that.")
    elif fault == "broken":
        message["content"] = '{"unexpected": [1, 2}'
    prompt = max(1, sum(len(part["content"]) for part in request["messages"]) // 4)
    used = max(1, len(message["content"] or "") // 4)
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": used, "total_tokens": prompt + used},
    }  # fmt: skip


def _json(value: dict[str, Any]) -> Answer:
    return 200, ["content-type: application/json"], json.dumps(value).encode()


def _error(status: int, message: str, *headers: str) -> Answer:
    body = json.dumps({"error": {"message": message, "type": "scripted", "code": None, "param": None}})
    return status, ["content-type: application/json", *headers], body.encode()


def _upload(body: bytes) -> bytes:
    """Return the file in a multipart form."""
    boundary = body.partition(b"\r\n")[0]
    for part in body.split(boundary):
        head, _, content = part.partition(b"\r\n\r\n")
        if b"filename=" in head:
            return content.removesuffix(b"\r\n")
    raise AssertionError("the form holds no file")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--faults", type=float, default=0.0, help="share of calls that fail")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--script", choices=["fixed", "teacher"], default="teacher", help="who answers")
    options = parser.parse_args()
    reply: Reply = lambda request: "fine"  # noqa: E731
    if options.script == "teacher":
        from tests import scripted_teacher

        reply = scripted_teacher.reply
    plan = seeded_faults(options.seed, options.faults)
    server = ScriptedServer(reply, faults=plan, latency=options.latency, port=options.port)
    asyncio.run(server.serve(lambda: print(server.url, flush=True)))


if __name__ == "__main__":
    main()
