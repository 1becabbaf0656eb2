"""An exported student behind a real OpenAI-compatible server: asked through the openai client, it keeps its form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from lite_huatuo.export import merge
from lite_huatuo.response_format import parse
from lite_huatuo.run_dir import RunDir
from tests.model_server import serve

pytestmark = pytest.mark.slow


@pytest.fixture
def served(toy_run: RunDir, tmp_path: Path) -> Iterator[tuple[OpenAI, str]]:
    """A client of `transformers serve` with the toy student, and the model's name there."""
    folder = tmp_path / "student"
    merge.export(
        toy_run.actor(), folder, base=toy_run.recipe()["base"], onto="trained", dtype="float32", max_shard_size="1GB"
    )
    with serve(str(folder), tmp_path / "log.txt") as url:
        yield OpenAI(base_url=url, api_key="none"), str(folder)


def test_thinking_and_final_response_come_through(served: tuple[OpenAI, str]) -> None:
    client, model = served
    for sign in ("rash", "fever"):
        question = [{"role": "user", "content": f"Patient 301 has {sign}. Which cure?"}]
        reply = client.chat.completions.create(model=model, messages=question, temperature=0, max_tokens=40)  # type: ignore[arg-type]
        sections = parse(reply.choices[0].message.content or "")
        assert sections is not None, reply
        assert sections.thinking.startswith(f"It is {sign}")
        assert sections.final_response
