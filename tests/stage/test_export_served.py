"""An exported student behind a real OpenAI-compatible server: asked through the openai client, it keeps its form."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from lite_huatuo.export import merge
from lite_huatuo.response_format import parse
from lite_huatuo.run_dir import RunDir

pytestmark = pytest.mark.slow


@pytest.fixture
def served(toy_run: RunDir, tmp_path: Path) -> Iterator[tuple[OpenAI, str]]:
    """A client of `transformers serve` with the toy student, and the model's name there."""
    folder = tmp_path / "student"
    merge.export(
        toy_run.actor(), folder, base=toy_run.recipe()["base"], onto="trained", dtype="float32", max_shard_size="1GB"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", str(folder), "--device", "cpu", "--dtype", "float32", "--port", str(port)]
    log = tmp_path / "log.txt"
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
        yield OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none"), str(folder)
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def test_thinking_and_final_response_come_through(served: tuple[OpenAI, str]) -> None:
    client, model = served
    for sign in ("rash", "fever"):
        question = [{"role": "user", "content": f"Patient 301 has {sign}. Which cure?"}]
        reply = client.chat.completions.create(model=model, messages=question, temperature=0, max_tokens=40)  # type: ignore[arg-type]
        sections = parse(reply.choices[0].message.content or "")
        assert sections is not None, reply
        assert sections.thinking.startswith(f"It is {sign}")
        assert sections.final_response
