"""`lite-huatuo report` on a real run of a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lite_huatuo import jsonl
from lite_huatuo.run_dir import RunDir
from tests import made_run

Run = Callable[..., tuple[int, str, str]]


def test_the_page_of_a_real_run_tells_what_its_files_say(run: Run, toy_run: RunDir, tmp_path: Path) -> None:
    to = tmp_path / "new" / "toy.html"
    code, out, _ = run("report", toy_run.path, "--to", to, "--samples", 40)
    text = to.read_text()
    assert (code, out) == (0, f"{to}  {to.stat().st_size / 2**20:.1f} MiB\n")
    assert to.stat().st_size < 2 * 2**20
    shown = made_run.Page(text)
    recipe = toy_run.recipe()
    for key in ("total_episodes", "gae_lambda", "target_kl"):
        assert f"<dt>{key}</dt><dd>{recipe['ppo'][key]}</dd>" in text

    rows = [row for _, row in jsonl.iter_rows(toy_run.stage("ppo") / "metrics.jsonl")]
    specs = list(shown.data["figures"].values())
    drawn = {d["s"]: [] for spec in specs for d in spec["data"]["values"]}
    for spec in specs:
        for datum in spec["data"]["values"]:
            drawn[datum["s"]].append((datum["x"], datum["v"]))
    for label, metric in (("episodes", "score/mean"), ("mean value", "value/mean"), ("longest", "reply/length_max")):
        wanted = [(row["update"], row[metric]) for row in rows if metric in row]
        assert drawn[label] == [(update, pytest.approx(value, rel=1e-5)) for update, value in wanted], metric

    kept = {row["question"]: row for _, row in jsonl.iter_rows(toy_run.path / "eval" / "heldout.ppo.jsonl")}
    finals = [one for one in shown.data["samples"] if one["from"] == "held-out, SFT + PPO"]
    assert finals
    for one in finals:
        assert one.get("final") == kept[one["question"]]["reading"]
        assert one["truth"] == kept[one["question"]]["ground_truth"]
    assert "Finished" in shown.text


def test_the_page_stands_in_the_run_folder(run: Run, tmp_path: Path) -> None:
    made = made_run.write(tmp_path / "run")
    code, out, _ = run("report", made.path)
    assert (code, out.split()[0]) == (0, str(made.path / "report.html"))
    assert (made.path / "report.html").read_text().startswith("<!doctype html>")
    assert not list(made.path.glob(".*")), "nothing half-written is left"


def test_what_is_no_run_is_told_in_a_line(run: Run, tmp_path: Path) -> None:
    code, out, err = run("report", tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {tmp_path}: no run here")
    assert err.count("\n") == 1
