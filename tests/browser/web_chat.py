"""Servers of `chat --web` for the tests: students who say what they are told, and a run in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from lite_huatuo.cli import chat_web
from lite_huatuo.errors import ReplyError
from lite_huatuo.evaluation.students import Said

ALLOW = ("http://127.0.0.1:", "ws://127.0.0.1:")
# Every connection that leaves loopback is refused and written down.
NO_NETWORK = """
import os, socket
real = socket.socket.connect
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        with open(os.environ["CONNECTIONS"], "a") as file:
            file.write(f"{address}\\n")
        raise OSError("refused by the test")
    return real(self, address)
socket.socket.connect = connect
"""


class Scripted:
    """Students of whom each says what `says` holds for it, piece by piece; a text of None fails."""

    most_tokens = 64

    def __init__(self, says: dict[str, str | None], *, piece: int = 25, pause: float = 0.0) -> None:
        self.says, self.piece, self.pause = says, piece, pause
        self.names = tuple(says)
        self.asked: list[dict[str, Any]] = []

    def answer(
        self, name: str, question: str, *, temperature: float, max_tokens: int, stop: threading.Event
    ) -> Iterator[Said]:
        self.asked.append({"name": name, "question": question, "temperature": temperature, "max_tokens": max_tokens})
        text = self.says[name]
        if text is None:
            raise ReplyError("<b>the endpoint</b> is down")
        for end in range(self.piece, len(text), self.piece):
            yield Said(text[:end])
            if stop.wait(self.pause):
                yield Said(text[:end], "stopped")
                return
        yield Said(text, "ended")


@contextmanager
def served(students: Scripted) -> Iterator[str]:
    """Serve the page on loopback, on a thread; give its address."""
    app = chat_web.application(students, temperature=0.0, max_tokens=64)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < until, "the server does not start"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


class Process:
    """`lite-huatuo chat RUN --web` as a user starts it, without any network but loopback."""

    def __init__(self, run: Path, folder: Path) -> None:
        (folder / "sitecustomize.py").write_text(NO_NETWORK)
        self.connections = folder / "connections.txt"
        paths = [str(folder), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self.child = subprocess.Popen(
            [sys.executable, "-m", "lite_huatuo", "chat", str(run), "--web", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr.txt").open("w"),
            text=True,
            env={**environment, "CONNECTIONS": str(self.connections)},
        )
        self.stderr = folder / "stderr.txt"
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, (line, self.stderr.read_text())
        self.url = found[0]
