"""Every reader of outside text holds its promises for any input: the properties are those of targets.py.

Here Hypothesis puts inputs together, a few in each run and more in the slow minute; the coverage-guided fuzzer has its
part of that minute where it is installed, and where it is not, the run says so.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEPARATOR, TARGETS

MINUTE = 60.0  # seconds for all targets together, half for each of the two ways
ROOT = Path(__file__).parent.parent.parent


@st.composite
def inputs(draw: st.DrawFn, name: str) -> bytes:
    """Words of a target's language between text of any kind, or a good input with a part exchanged."""
    target = TARGETS[name]
    words = st.sampled_from([word.encode() for word in target.words])
    pieces = st.one_of(words, words, st.text(max_size=8).map(str.encode), st.just(SEPARATOR), st.binary(max_size=8))
    made = b"".join(draw(st.lists(pieces, max_size=20)))
    if draw(st.booleans()):
        return made
    seed = draw(st.sampled_from(target.seeds))
    start = draw(st.integers(0, len(seed)))
    return seed[:start] + made[: draw(st.integers(0, 16))] + seed[draw(st.integers(start, len(seed))) :]


@pytest.mark.parametrize("name", TARGETS)
def test_the_inputs_to_begin_with_hold(name: str) -> None:
    for seed in (*TARGETS[name].seeds, b"", b"\0", b"\xef\xbb\xbf", b"\r\n", b"\xed\xa0\x80", SEPARATOR * 9):
        TARGETS[name].check(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_holds(name: str) -> None:
    @settings(max_examples=60, database=None)
    @given(inputs(name))
    def holds(data: bytes) -> None:
        TARGETS[name].check(data)

    holds()


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_any_input_holds_for_longer(name: str) -> None:
    end, tried = time.monotonic() + MINUTE / 2 / len(TARGETS), 0
    while time.monotonic() < end:

        @settings(max_examples=100, database=None)
        @given(inputs(name))
        def holds(data: bytes) -> None:
            nonlocal tried
            tried += 1
            TARGETS[name].check(data)

        holds()
    assert tried >= 100


@pytest.mark.slow
@pytest.mark.coverage_guided
@pytest.mark.parametrize("name", TARGETS)
def test_inputs_that_reach_new_code_hold(name: str, tmp_path: Path) -> None:
    """By the coverage-guided fuzzer. Left out where atheris is not installed, with a line that says so (conftest)."""
    options = [name, "--seconds", str(MINUTE / 2 / len(TARGETS)), "--corpus", str(tmp_path)]
    command = [sys.executable, "-m", "tests.fuzz.coverage_guided", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert " inputs in " in done.stdout
