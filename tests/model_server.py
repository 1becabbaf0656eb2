"""A real OpenAI-compatible server for tests: `transformers serve` on loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def serve(folder: str, log: Path) -> Iterator[str]:
    """Serve a model's folder while the block runs; give the base URL. What the server prints goes to `log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", folder, "--device", "cpu", "--dtype", "float32", "--port", str(port)]
    with log.open("w") as told:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("transformers")), *words],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=told,
            stderr=told,
        )
    try:
        until = time.monotonic() + 120
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < until, log.read_text()[-2000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False
