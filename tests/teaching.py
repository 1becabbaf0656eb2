"""What the tests of the teacher share: a profile of the scripted server, requests, a store opened afresh."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo.data import profile as profiles
from lite_huatuo.data.asking import Request
from lite_huatuo.data.client import Teacher
from lite_huatuo.data.limits import Retries
from lite_huatuo.data.profile import Profile
from lite_huatuo.data.store import Store
from tests.scripted_server import ScriptedServer, content_of

KEY = "sk-canary-0123456789abcdef"
QUICK = Retries(tries=8, first=0.01, longest=0.05)
FLAT = "prices={input: 1000.0, output: 1000.0}"  # dollars per million: 0.001 a token


class Gate(ScriptedServer):
    """Answers nobody before as many as are wanted have asked."""

    wanted = 0

    async def _chat(self, request: dict[str, Any]) -> Any:
        while self.most < self.wanted:
            await asyncio.sleep(0.005)
        return await super()._chat(request)


def profile_of(server: ScriptedServer, *overrides: str) -> Profile:
    chosen = (f"base_url={server.url}", "key_env=CANARY_KEY", "timeout=300", FLAT, *overrides)
    return profiles.load("local", chosen)


def echo(request: dict[str, Any]) -> str:
    return request["messages"][0]["content"].upper()


def question(text: str, **more: Any) -> Request:
    return Request(**{"step": "test", "prompt": text, "max_tokens": 50, **more})


def use(
    folder: Path, profile: Profile, work: Callable[[Teacher], Awaitable[Any]], **options: Any
) -> Any:
    """Run `work` with a teacher on the folder's store, opened afresh."""

    async def run() -> Any:
        with Store(folder / "store.db") as store:
            async with Teacher(profile, store, **{"retries": QUICK, **options}) as teacher:
                return await work(teacher)

    return asyncio.run(run())


async def outcomes(teacher: Teacher, requests: list[Request]) -> list[str]:
    """Ask all at once; an error counts as its class and text."""
    replies = await asyncio.gather(*(teacher.ask(request) for request in requests), return_exceptions=True)
    return [reply if isinstance(reply, str) else f"{type(reply).__name__}: {reply}" for reply in replies]


def impatient(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time out what the server never answers, once it has it, and nothing else: a busy machine may be late."""
    real = Teacher._post

    async def post(self: Teacher, body: dict[str, Any]) -> Any:
        content = content_of(body)
        before = server.calls[content]
        if server.faults(body, before) != "hang":
            return await real(self, body)
        calling = asyncio.ensure_future(real(self, body))
        while server.calls[content] == before:
            await asyncio.sleep(0.005)
        calling.cancel()
        raise self._meaning(asyncio.TimeoutError())

    monkeypatch.setattr(Teacher, "_post", post)


def first_fails(kind: str) -> Callable[[dict[str, Any], int], str | None]:
    return lambda request, attempt: kind if attempt == 0 else None
