"""Where a run stands, told from its events and from when it last wrote: finished, going on, stopped, not started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lite_huatuo.report.text import clean, dig, duration, finite

QUIET = 600.0  # seconds without a word after which a run that is not finished is taken for stopped, at least
PATIENCE = 5  # or so many of its updates, where they take longer


@dataclass(frozen=True)
class State:
    """`kind` is finished, running, stopped, watched (stopped by the watch) or new; `text` says more in a line each."""

    kind: str
    label: str
    text: list[str]


def read(
    recipe: Mapping[str, Any],
    events: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    last_write: float | None,
    now: float,
) -> State:
    """Tell the state. `last_write` and `now` are seconds since 1970."""
    names = [clean(event.get("event")) for event in events]
    marks = [name for name in names if name.endswith((" started", " finished"))]
    stage = _stage(names)
    text = [line for line in (_sft(recipe, metrics["sft"]), _ppo(recipe, metrics["ppo"])) if line]
    text += _last_event(events)
    if last_write is not None:
        text.append(
            f"Last write: {_clock(last_write)}, {duration(max(0.0, now - last_write))} before this page was made."
        )
    if marks and marks[-1] == "ppo finished":
        return State("finished", "Finished", text)
    if stage is None and not any(metrics.values()):
        return State("new", "Not started", ["No stage has started.", *text])
    ended = names[-1:] in (["failed"], ["interrupted"])
    if _watch_stopped(recipe, events[:-1] if ended else events):
        return State("watched", "Stopped by the watch", text)
    quiet = last_write is not None and now - last_write > quiet_limit(metrics["ppo"])
    if quiet or ended:
        if marks and marks[-1] == "sft finished":
            return State("finished", "SFT finished, PPO not started", text)
        return State("stopped", f"Stopped{f' in {stage}' if stage else ''}", text)
    return State("running", f"In progress{f': {stage}' if stage else ''}", text)


def quiet_limit(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the seconds without a write after which a run is taken for stopped: some updates' time, at least QUIET."""
    spent = [
        sum(value for name, each in row.items() if name.startswith("time/") and name.endswith("_seconds")
            and (value := finite(each)) is not None)
        for row in rows
    ]  # fmt: skip
    return max(QUIET, PATIENCE * max(spent, default=0.0))


def updates_asked(recipe: Mapping[str, Any]) -> int | None:
    """Return how many PPO updates the recipe asks for."""
    episodes, total = finite(dig(recipe, "ppo.rollout.episodes")), finite(dig(recipe, "ppo.total_episodes"))
    return max(1, int(total // episodes)) if episodes and episodes >= 1 and total is not None else None


def _stage(names: Sequence[str]) -> str | None:
    """Return the stage that started last."""
    started = [name for name in names if name in ("sft started", "ppo started")]
    return started[-1].split()[0].upper() if started else None


def _sft(recipe: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    epochs = [value for row in rows if (value := finite(row.get("sft/epoch"))) is not None]
    steps = [value for row in rows if (value := finite(row.get("step"))) is not None]
    if not steps:
        return ""
    asked = finite(dig(recipe, "sft.epochs"))
    done = f", epoch {epochs[-1]:.2f}{f' of {asked:g}' if asked else ''}" if epochs else ""
    return f"SFT: step {int(max(steps))}{done}."


def _ppo(recipe: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    updates = [value for row in rows if (value := finite(row.get("update"))) is not None]
    if not updates:
        return ""
    asked = updates_asked(recipe)
    return f"PPO: update {int(max(updates))}{f' of {asked}' if asked else ''}."


def _last_event(events: Sequence[Mapping[str, Any]]) -> list[str]:
    if not events:
        return ["No event was written."]
    last = events[-1]
    return [f"Last event: {clean(last.get('event'))}, {clean(last.get('time')).replace('T', ' ')}."]


def _watch_stopped(recipe: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> bool:
    """True where the last thing told is a warning that has come as often as the recipe allows."""
    patience = finite(dig(recipe, "ppo.watch.patience"))
    if not events or events[-1].get("event") != "watch" or patience is None:
        return False
    update = events[-1].get("update")
    last = [event for event in events if event.get("event") == "watch" and event.get("update") == update]
    return any((finite(event.get("streak")) or 0) >= patience for event in last)


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S%z")
