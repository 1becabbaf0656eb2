"""Run folders written by hand, through the code that writes real ones: finished, going on, crashed, hostile."""

from __future__ import annotations

import json
import math
import os
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl
from lite_huatuo.response_format import render
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import metrics

RECIPE = {
    "name": "made",
    "base": {"model": "some/base-model", "quantization": "nf4"},
    "adapter": {"rank": 16, "targets": ["q_proj", "v_proj"]},
    "verifier": {"kind": "exact"},
    "sft": {"epochs": 3.0, "learning_rate": 2e-4},
    "ppo": {"total_episodes": 96, "rollout": {"episodes": 8}, "kl_coef": 0.03, "watch": {"patience": 3}},
}
HOSTILE = (
    "</script><script>hit('script')</script><img src=x onerror=hit('img')>\u2028<!--\x1b[31m'\"&amp;{{7*7}}\x00\ud800"
)


def metric_row(update: int) -> dict[str, Any]:
    """Return a plausible row of PPO metrics."""
    share = 1 - math.exp(-update / 6)
    return metrics.check(
        {
            "update": update,
            "score/mean": 0.1 + 0.8 * share,
            "score/right_share": 0.9 * share,
            "score/form_share": 0.95,
            "reply/length_mean": 100.0 + update,
            "reply/length_max": 140 + update,
            "reference/kl_per_token": 0.002 * update,
            "policy/entropy": 1.2 - 0.5 * share,
            "value/loss": 0.3 * (1 - share),
            "value/explained_variance": share,
            "watch/repetition": 0.05,
            "time/rollout_seconds": 20.0,
            "time/scoring_seconds": 10.0,
            "time/learning_seconds": 30.0,
            "memory/rollout_mib": 2000.0,
            "memory/learning_mib": 4000.0 + update,
            **({"heldout/score": 0.1 + 0.7 * share} if update % 4 == 0 else {}),
        }
    )


def sample_row(update: int | None, number: int, kind: str) -> dict[str, Any]:
    """Return a reply's row as heldout.prediction makes it; `kind` is right, wrong, malformed or unjudged."""
    formed = kind != "malformed"
    answer = f"It is answer {number}."
    return {
        **({} if update is None else {"update": update}),
        "id": f"id-{number:03}",
        "question": f"Question {number}: which?",
        "ground_truth": f"truth {number}",
        "reply": render(f"Thinking of {number}.", answer) if formed else f"Loose words {number}.",
        "reading": answer if formed else None,
        "well_formed": formed,
        "stopped": formed,
        "correct": None if kind == "unjudged" else kind == "right",
        "verdict": {"right": "match", "wrong": "no match", "malformed": "no final response"}.get(kind, "timed out"),
        "score": {"right": 1.0, "wrong": 0.1, "malformed": 0.0}.get(kind),
        "length": 40 + number,
    }


def write(folder: Path, *, updates: int = 12, finished: bool = True, heldout: bool = True) -> RunDir:
    """Write a run of so many updates; four samples an update: right, wrong, malformed, unjudged."""
    run = RunDir.create(folder, RECIPE)
    run.event("sft started", device="cpu")
    for step in range(1, 31):
        run_row = {"step": step, "sft/loss": 3 / step**0.5, "sft/epoch": step / 10}
        jsonl.append(folder / "sft" / "metrics.jsonl", [metrics.check(run_row)])
    run.log("sft", {"step": 30, "sft/eval_loss": 0.7})
    run.event("sft finished")
    run.event("ppo started", update=0, device="cpu")
    jsonl.append(folder / "ppo" / "metrics.jsonl", [metric_row(update) for update in range(1, updates + 1)])
    kinds = ("right", "wrong", "malformed", "unjudged")
    samples = [sample_row(u, 4 * u + i, kind) for u in range(1, updates + 1) for i, kind in enumerate(kinds)]
    jsonl.append(folder / "ppo" / "samples.jsonl", samples)
    if heldout:
        _evaluations(folder)
    run.event("watch", update=3, sign="repetition", streak=1, text="replies repeat themselves: repetition 0.6")
    if finished:
        run.event("ppo finished", best_update=updates)
    return run


def _evaluations(folder: Path) -> None:
    rows = {"base": ["malformed"] * 4, "sft": ["right", "wrong", "wrong", "wrong"], "ppo": ["right"] * 3 + ["wrong"]}
    report = {}
    for stage, kinds in rows.items():
        made = [sample_row(None, 900 + i, kind) for i, kind in enumerate(kinds)]
        jsonl.write(folder / "eval" / f"heldout.{stage}.jsonl", made)
        scores = [row["score"] for row in made]
        report[stage] = {
            "problems": 4,
            "failed": 0,
            "well_formed": sum(row["well_formed"] for row in made),
            "right": kinds.count("right"),
            "score": sum(scores) / 4,
            "score_standard_error": 0.1,
            "length": 90.0,
        }
        exam = {"title": "MedQA-USMLE test", "accuracy": 0.25, "low": 0.1, "high": 0.5, "questions": 20,
                "rule": "strict", "unread": {"count": 2, "share": 0.1}}  # fmt: skip
        (folder / "eval" / stage).mkdir()
        jsonl.write_text(folder / "eval" / stage / "report.json", json.dumps({"medqa": exam}))
    jsonl.write_text(folder / "eval" / "report.json", json.dumps(report))


def hostile(folder: Path) -> RunDir:
    """Write a run whose every text wants to be more than text."""
    run = RunDir.create(folder, {**RECIPE, "name": HOSTILE.replace("\x00", ""), "data": {HOSTILE[:40]: HOSTILE[:40]}})
    row = {**metric_row(1), HOSTILE: 1.0}
    texts = ("question", "ground_truth", "verdict")
    formed = {**sample_row(1, 1, "right"), "reply": render(HOSTILE, HOSTILE), **dict.fromkeys(texts, HOSTILE)}
    loose = {**sample_row(1, 2, "malformed"), "reply": HOSTILE * 500}
    events = [{"time": HOSTILE, "event": HOSTILE}, {"time": HOSTILE, "event": "watch", "update": 1, "text": HOSTILE}]
    exam = {"title": HOSTILE, "accuracy": 0.5, "low": 0.1, "high": 0.9, "questions": 2, "rule": HOSTILE}
    (folder / "eval" / "ppo").mkdir()
    for name, rows in (("ppo/metrics", [row]), ("ppo/samples", [formed, loose]), ("events", events)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (folder / "eval" / "ppo" / "report.json").write_text(json.dumps({HOSTILE: exam}))
    (folder / "environment.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    (folder / "verifier.json").write_text(json.dumps({"verifier": HOSTILE, "below_the_bar": HOSTILE, "report": {}}))
    return run


def age(folder: Path, seconds: float) -> None:
    """Make a run's files so many seconds old."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)


class Page(HTMLParser):
    """A page as a browser would take it apart: elements with their attributes, scripts with their texts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        self.text += " "
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    @property
    def data(self) -> dict[str, Any]:
        """What the page's own script reads."""
        return json.loads(self.scripts[0])
