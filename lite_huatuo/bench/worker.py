"""The process that runs checks, one after another, for `runner`: python -m lite_huatuo.bench.worker '{"checks": …}'.

It writes a line of JSON on stdout as each check begins and ends. After one that failed it ends: a card may not be
usable after an error. What it prints otherwise goes to stderr. It dies with the one that started it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from lite_huatuo.bench import card_file
from lite_huatuo.bench.checks import NotRun

ONE_LINE = 300  # characters of a reason


def main() -> None:
    """Run the checks that the first argument names."""
    asked = json.loads(sys.argv[1])
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=_die_with_the_starter, daemon=True).start()
    place = None
    for name in asked["checks"]:
        _say(results, {"check": name, "status": card_file.RUNNING})
        start = time.perf_counter()
        if place is None:  # imports torch: that is this check's time
            place = _place(asked)
        result = _checked(name, place)
        result["seconds"] = round(time.perf_counter() - start, 1)
        _say(results, {"check": name, **result})
        if result["status"] == card_file.FAILED:
            break
    results.flush()
    os._exit(0)  # threads and destructors of libraries have nothing left to do


def _place(asked: dict[str, Any]) -> Any:
    from lite_huatuo.bench.place import Place

    return Place(size=asked["size"], work=Path(asked["work"]), to=Path(asked["to"]))


def _checked(name: str, place: Any) -> dict[str, Any]:
    """Return status, reason and figures of one check."""
    try:
        figures = importlib.import_module(f"lite_huatuo.bench.{name}").run(place)
    except NotRun as reason:
        return {"status": card_file.NOT_RUN, "reason": str(reason)}
    except Exception as error:
        traceback.print_exc()
        first = str(error).strip().split("\n")[0]
        return {"status": card_file.FAILED, "reason": f"{type(error).__name__}: {first}"[:ONE_LINE]}
    broken = [claim for claim, holds in figures.get("holds", {}).items() if not holds]
    if broken:
        return {"status": card_file.FAILED, "reason": f"does not hold: {'; '.join(broken)}", "figures": figures}
    return {"status": card_file.PASSED, "figures": figures}


def _say(results: TextIO, row: dict[str, Any]) -> None:
    results.write(json.dumps(row) + "\n")
    results.flush()


def _die_with_the_starter() -> None:
    """Wait for the end of stdin, which comes when the starter is gone; then end this process and those it started."""
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
