"""The project's own tests of the stages, in a process of their own, computed in float32 on the card."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lite_huatuo
from lite_huatuo.bench import assembled, measure
from lite_huatuo.bench.checks import NotRun
from lite_huatuo.bench.place import Place

STAGES = ("shared_base", "decoding", "packing", "memory", "sft", "resume", "run_base", "students", "verifier_train")
UNITS = ("logprobs", "ppo_losses", "numbers_gone_wrong")
COUNTS = re.compile(r"(\d+) (passed|failed|errors?)\b")


def run(place: Place) -> dict[str, Any]:
    """Run the tests of a checkout; the whole output is kept in tests.txt beside card.json."""
    root = Path(lite_huatuo.__file__).parent.parent
    if not (root / "setup.cfg").is_file() or not (root / "tests" / "stage").is_dir():
        raise NotRun("no checkout: the package was installed without its tests")
    if importlib.util.find_spec("pytest") is None:
        raise NotRun("pytest is not installed; pip install -e '.[dev]' brings it")
    assembled.release(place)
    rooms = {"unit": UNITS, "stage": STAGES} if measure.cuda() else {"unit": UNITS[:1]}
    files = [f"tests/{room}/test_{name}.py" for room, names in rooms.items() for name in names]
    files = [file for file in files if (root / file).is_file()]
    words = ["-p", "lite_huatuo.bench.float32", "-p", "no:cacheprovider", "--tb=line", "--color=no"]
    done = subprocess.run([sys.executable, "-m", "pytest", *words, *files], cwd=root, capture_output=True, text=True)
    (place.to / "tests.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    counts = {name.rstrip("s"): int(number) for number, name in COUNTS.findall(done.stdout)}
    failed = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    passed = counts.get("passed", 0)
    return {
        "files": len(files),
        "passed": passed,
        "failed": counts.get("failed", 0) + counts.get("error", 0),
        "names": failed[:40],
        "holds": {"the tests pass": done.returncode == 0 and passed > 0},
    }
