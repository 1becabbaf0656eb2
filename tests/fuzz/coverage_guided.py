"""The coverage-guided fuzzer: atheris (libFuzzer) on one target, for a time.

    pip install --no-deps atheris
    python -m tests.fuzz.coverage_guided exact --seconds 600 [--corpus DIR]

An input that breaks a check is written to DIR (default: a temporary folder) as crash-…, and the exit code is not 0.
The last line tells how many inputs were tried in how many seconds of the processor.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

INSTRUMENTED = ["lite_huatuo", "yaml", "json", "tests.fuzz"]


def within(check: Callable[[bytes], None], seconds: float, name: str) -> Callable[[bytes], None]:
    """Return the check that ends the process once it has used its time (libFuzzer itself knows the clock only)."""
    tried, begin = 0, time.process_time()

    def counted(data: bytes) -> None:
        nonlocal tried
        check(data)
        tried += 1
        used = time.process_time() - begin
        if used > seconds:
            print(f"{name}: {tried} inputs in {used:.0f} CPU-seconds", flush=True)
            os._exit(0)

    return counted


def main() -> None:
    """Read the command line and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=float, default=60, help="CPU-seconds")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    given = parser.parse_args()

    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[given.target]
    folder = given.corpus or Path(tempfile.mkdtemp(prefix="corpus-"))
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    words = Path(tempfile.mkstemp(prefix="words-")[1])
    escaped = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in [*target.words, "\0"])
    words.write_text("".join(f'"{word}"\n' for word in escaped) + '"\\xff"\n', encoding="ascii")
    options = [f"-dict={words}", f"-artifact_prefix={folder}/", "-timeout=60", "-rss_limit_mb=2048", "-max_len=4096",
               "-verbosity=1"]  # fmt: skip
    if given.seed:
        options.append(f"-seed={given.seed}")
    atheris.Setup([sys.argv[0], *options, str(folder)], within(target.check, given.seconds, given.target))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
