"""The page of a run: what is read from a folder in any state, what is drawn of it, and that no text does anything."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_huatuo.errors import CheckpointError
from lite_huatuo.report import bundle, curves, page, reading, samples, state, tables, thin
from lite_huatuo.report.collect import collect
from lite_huatuo.report.text import clean, duration, finite, memory, number
from tests import made_run

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("update", "score/mean", "heldout/score", "time/rollout_seconds", "event", "time", "streak", "reply", "correct",
        "well_formed", "score")  # fmt: skip
SHARE = {"value": 8 / 9, "low": 0.565, "high": 0.98, "hits": 8, "n": 9}
ROWS = [{"update": update, "score/mean": update / 8, "heldout/score": 0.5} for update in range(1, 9)]


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without the plotting library, which takes seconds to put together."""
    monkeypatch.setattr(bundle, "javascript", lambda: "/* none */")


def rendered(folder: Path) -> made_run.Page:
    return made_run.Page(page.render(collect(folder, most_samples=50), now=time.time()))


def spec_of(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    panel = next(p for group in curves.PANELS.values() for p in group if name in p.metrics)
    figure = curves.draw(panel, rows)
    assert figure is not None
    return figure


# --- curves


def test_a_short_curve_is_its_rows() -> None:
    values = spec_of("score/mean", ROWS)["spec"]["data"]["values"]
    assert [(d["x"], d["v"]) for d in values if d["s"] == "episodes"] == [(r["update"], r["score/mean"]) for r in ROWS]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 50))
def test_a_thinned_curve_keeps_every_row_in_some_point(values: list[float], most: int) -> None:
    rows = [{"update": i, "m": value} for i, value in enumerate(values)]
    made = thin.points(rows, "update", "m", most=most)
    size = thin.bucket_size(len(rows), most)
    assert len(made) <= most
    assert [i for p in made for i in range(int(p.x), int(p.upto) + 1)] == list(range(len(values)))
    assert (min(p.low for p in made), max(p.high for p in made)) == (min(values), max(values))
    weights = [min(size, len(values) - i * size) for i in range(len(made))]
    whole = sum(w * p.value for w, p in zip(weights, made, strict=True)) / len(values)
    assert math.isclose(whole, sum(values) / len(values), rel_tol=1e-9, abs_tol=1e-6)


def test_what_was_not_measured_is_a_gap_and_never_a_zero() -> None:
    rows = [
        {"update": 1, "m": 1.0},
        {"update": 2},
        {"update": 3, "m": math.nan},
        {"update": 4, "m": 2.0},
        {"update": 5},
    ]
    assert [p.value for p in thin.points(rows, "update", "m", most=9)] == [1.0, None, None, 2.0]
    assert [p.x for p in thin.points(rows, "update", "m", most=9, sparse=True)] == [1, 4]
    hover = spec_of(
        "score/mean",
        [{"update": 1, "score/mean": 0.5}, {"update": 2, "heldout/score": 0.0}, {"update": 3, "score/mean": 0.7}],
    )
    told = hover["spec"]["layer"][-1]["data"]["values"]
    assert [(each["episodes"], each["held out for selection"]) for each in told] == [
        ("0.5", "–"),
        ("–", "0"),
        ("0.7", "–"),
    ]


def test_a_thinned_curve_says_so_and_shows_its_band() -> None:
    rows = [{"update": i, "score/mean": float(i % 2)} for i in range(1, 5001)]
    figure = spec_of("score/mean", rows)
    assert "Means of 21 updates" in figure["note"]
    assert {(d["low"], d["high"]) for d in figure["spec"]["data"]["values"]} == {(0.0, 1.0)}
    assert figure["spec"]["layer"][-1]["data"]["values"][0]["at"] == "1 to 21"


def test_only_what_was_measured_is_drawn() -> None:
    drawn = curves.drawn({"sft": [], "ppo": [{"update": 1, "score/mean": 0.5}]})
    assert [figure["title"] for group in drawn.values() for figure in group] == ["Score"]
    assert curves.drawn({"sft": [], "ppo": [{"update": 1, "score/mean": "high"}]}) == {}


def test_every_drawn_metric_is_defined() -> None:
    from lite_huatuo.training.metrics import METRICS

    drawn = {name for group in curves.PANELS.values() for panel in group for name in panel.metrics}
    assert drawn <= set(METRICS)


# --- files


def test_a_torn_line_is_told_and_left_out(tmp_path: Path) -> None:
    path, problems = tmp_path / "rows.jsonl", []
    path.write_bytes(b'{"a": 1}\n\n[2]\n{"a": "\xff"}\n{"a": "x\xe2\x80\xa8y"}\n{"a": 4, "b')
    assert [row["a"] for row in reading.iter_rows(path, problems, "rows")] == [1, "x\u2028y"]
    assert [problem.partition(" ")[2][:14] for problem in problems] == [
        "line 3 cannot ",
        "line 4 cannot ",
        "the last line ",
    ]
    (tmp_path / "folder.jsonl").mkdir()
    assert list(reading.iter_rows(tmp_path / "folder.jsonl", problems, "f")) == []
    assert list(reading.iter_rows(tmp_path / "none.jsonl", problems, "n")) == []
    assert len(problems) == 4, "a missing file is no problem"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run here"):
        page.write(tmp_path, tmp_path / "report.html")


@pytest.mark.usefixtures("no_library")
def test_a_page_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    run = made_run.write(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="choose another file with --to"):
        page.write(run.path, tmp_path / "file" / "report.html")


@pytest.mark.usefixtures("no_library")
def test_a_run_of_a_recipe_alone_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: alone\n")
    shown = rendered(tmp_path)
    assert "Not started" in shown.text
    assert "there is no metrics.jsonl" in shown.text
    (tmp_path / "recipe.yaml").write_text("{")
    assert "recipe.yaml: damaged" in rendered(tmp_path).text


@pytest.mark.usefixtures("no_library")
@settings(max_examples=25)
@given(st.lists(st.dictionaries(st.sampled_from(KEYS), JSON), max_size=4), JSON)
def test_no_content_breaks_the_page(tmp_path_factory: pytest.TempPathFactory, rows: list[Any], tree: Any) -> None:
    folder = tmp_path_factory.mktemp("broken")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    keys = ("base", "ppo", "medqa", "report", "accuracy", "problems", "verifier")
    objects = json.dumps({**dict.fromkeys(keys, tree), "sft": {"accuracy": 1, "unread": tree, "problems": 3}})
    (folder / "recipe.yaml").write_text(objects)
    for name in (
        "ppo/metrics.jsonl",
        "sft/metrics.jsonl",
        "ppo/samples.jsonl",
        "events.jsonl",
        "eval/heldout.sft.jsonl",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(lines)
    for name in ("environment.json", "verifier.json", "eval/report.json", "eval/ppo/report.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(objects)
    rendered(folder)


# --- state


def told(events: list[dict[str, Any]], rows: list[dict[str, Any]] = ROWS, quiet: float = 0.0) -> str:
    metrics = {"sft": [], "ppo": rows}
    return state.read(made_run.RECIPE, events, metrics, last_write=1000.0, now=1000.0 + quiet).kind


def test_the_state_is_read_from_events_and_time() -> None:
    started, done = {"event": "ppo started"}, {"event": "ppo finished"}
    warned = {"event": "watch", "update": 8, "streak": 3}
    assert told([], []) == "new"
    assert told([started]) == "running"
    assert told([started], quiet=state.QUIET + 1) == "stopped"
    assert told([started, {"event": "failed"}]) == told([started, {"event": "interrupted"}]) == "stopped"
    assert told([started, warned, {"event": "failed", "error": "update 8: stopped"}]) == "watched"
    slow = [{"update": 1, "time/rollout_seconds": 400.0, "time/learning_seconds": 100.0}]
    assert told([started], slow, quiet=2499) == "running", "an update takes 500 seconds"
    assert told([started], slow, quiet=2501) == "stopped"
    assert told([started, done]) == told([started, done, {"event": "resumed"}]) == "finished"
    assert told([started, done, {"event": "resumed"}, started]) == "running"
    assert told([started, warned]) == told([started, warned, {**warned, "streak": 1}]) == "watched"
    assert told([started, {**warned, "streak": 2}]) == told([started, warned, {"event": "resumed"}]) == "running"
    assert told([{"event": "sft started"}, {"event": "sft finished"}], quiet=999) == "finished"


def test_updates_are_counted_as_the_stage_counts_them() -> None:
    from lite_huatuo.recipe import load

    recipe = load("demo")
    assert state.updates_asked(recipe.model_dump()) == recipe.ppo.updates == 3


# --- samples


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(0, 100))
def test_chosen_updates_fit_and_reach_from_the_first_to_the_last(sizes: list[int], most: int) -> None:
    counts = {float(update): size for update, size in enumerate(sizes)}
    chosen = samples.spread(counts, most)
    assert len(counts) - 1.0 in chosen
    assert len(chosen) == 1 or sum(counts[update] for update in chosen) <= most
    assert len(chosen) == 1 or 0.0 in chosen
    assert sum(sizes) > most or len(chosen) == len(sizes)


def test_samples_are_cut_and_that_is_said(tmp_path: Path) -> None:
    made_run.write(tmp_path / "run", updates=30)
    few = samples.read(tmp_path / "run", 40, [])
    sampled = [one for one in few.shown if one["from"].startswith("PPO")]
    assert 30 <= len(sampled) <= 40
    assert (sampled[0]["from"], sampled[-1]["from"]) == ("PPO, update 1", "PPO, update 30")
    assert "Of 120 replies sampled in 30 updates" in few.notes[0]
    everything = samples.read(tmp_path / "run", 1000, [])
    assert (len(everything.shown), everything.notes) == (120 + 12, [])
    assert samples.read(tmp_path / "run", 0, []).shown == []


def test_a_sample_has_its_parts_and_its_verdict() -> None:
    shown = {kind: samples._shown(made_run.sample_row(1, 7, kind), "here") for kind in samples.VERDICTS}
    assert {kind: one["verdict"] for kind, one in shown.items()} == {kind: kind for kind in shown}
    assert (shown["right"]["thinking"], shown["right"]["final"]) == ("Thinking of 7.", "It is answer 7.")
    assert shown["malformed"]["reply"] == "Loose words 7."
    assert [shown[kind]["score"] for kind in ("right", "wrong", "unjudged")] == ["1", "0.1", "–"]
    assert "cut here: 50,000 characters" in samples._cut("x" * 50_000)


# --- tables and text


def test_held_out_shares_have_their_interval_and_failures_are_in_none() -> None:
    summary = {"problems": 10, "failed": 2, "well_formed": 9, "right": 4, "score": 0.5, "score_standard_error": 0.1}
    row = tables.heldout({"ppo": {**summary, "length": 99.6}})[0]
    assert (row["name"], row["right"].hits, row["right"].n, row["failed"]) == ("SFT + PPO", 4, 8, 2)
    assert (row["score"], row["well_formed"]) == ("0.5 ± 0.1", "9 of 10")
    assert row["interval"] == "21.5\u00a0% to 78.5\u00a0%"


def test_phases_add_up() -> None:
    rows = tables.phases([made_run.metric_row(update) for update in range(1, 4)])
    assert [(r["name"], r["total"], r["mean"], r["share"]) for r in rows] == [
        ("rollout", "1 min 0 s", "20 s", "33.3\u00a0%"),
        ("scoring", "30 s", "10 s", "16.7\u00a0%"),
        ("learning", "1 min 30 s", "30 s", "50.0\u00a0%"),
    ]
    assert [row["memory"] for row in rows] == ["2.0 GiB", "–", "3.9 GiB"]


@given(st.text() | st.text("a\x1b\u202e\u2066\r\n\t\x9b\ud800"))
def test_cleaned_text_steers_nothing(text: str) -> None:
    shown = clean(text)
    assert all(c in "\n\t" or c.isprintable() or ord(c) > 0x9F for c in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert clean(shown) == shown
    shown.encode()


def test_numbers_are_written_for_people() -> None:
    assert [number(x) for x in (0.12345, 12, 1234.5, 2.1e-7, None, math.nan, True, "7")] == [
        "0.123", "12", "1,234", "2.1e-07", "–", "–", "–", "–"]  # fmt: skip
    assert [duration(x) for x in (0.4, 59, 61, 7200, 200_000, None)] == [
        "0.4 s", "59 s", "1 min 1 s", "2 h 0 min", "2 d 7 h", "–"]  # fmt: skip
    assert (memory(512), memory(2048), finite(10**400)) == ("512 MiB", "2.0 GiB", None)


# --- safety


@given(st.text())
def test_data_in_a_script_stays_data(text: str) -> None:
    written = page.script_data([text, "</script><!--<script>&\u2028\u2029"])
    assert not set(written) & set("<>&\u2028\u2029")
    assert json.loads(written)[0] == text


@pytest.mark.usefixtures("no_library")
def test_hostile_texts_are_text(tmp_path: Path) -> None:
    shown = rendered(made_run.hostile(tmp_path / "run").path)
    assert [tag for tag, _ in shown.elements].count("script") == 3
    assert not [tag for tag, _ in shown.elements if tag in ("img", "iframe", "object", "base", "form")]
    assert not [name for _, attributes in shown.elements for name in attributes if name.startswith("on")]
    assert shown.text.count("<img src=x onerror=hit('img')>") > 5, "they are shown"
    assert "\x1b" not in shown.text
    assert {one["verdict"] for one in shown.data["samples"]} == {"right", "malformed"}


@pytest.mark.usefixtures("no_library")
def test_tables_show_their_values(tmp_path: Path) -> None:
    run = made_run.write(tmp_path / "run")
    (run.path / "verifier.json").write_text(json.dumps({"verifier": "exact", "report": {"n": 9, "accuracy": SHARE}}))
    words = " ".join(rendered(run.path).text.split())
    assert "3 repetition 1 replies repeat themselves: repetition 0.6" in words
    assert "SFT + PPO 75.0 % (3 of 4) 30.1 % to 95.4 % 4 of 4 0.775 ± 0.1 90 tokens" in words
    assert "MedQA-USMLE test 25.0 % 10.0 % to 50.0 % 20 questions, 10.0 % unread" in words
    assert (
        "exact, on 9 shipped cases that were written to fool a judge: accuracy 88.9 % (56.5 % to 98.0 %, n = 9)."
        in words
    )
    assert "rollout 4 min 0 s 33.3 % 20 s 2.0 GiB" in words
    assert "score/mean 0.223 0.792 0.223 0.792 mean score of the update's episodes" in words
    assert "total_episodes 96" in words
    assert "object at 0x" not in words


@pytest.mark.usefixtures("no_library")
def test_the_policy_names_the_scripts_and_nothing_else(tmp_path: Path) -> None:
    shown = rendered(made_run.write(tmp_path / "run").path)
    metas = [attributes for tag, attributes in shown.elements if tag == "meta"]
    found = next(m["content"] or "" for m in metas if m.get("http-equiv") == "Content-Security-Policy")
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in shown.scripts[1:]]
    assert found.startswith("default-src 'none'; script-src " + " ".join(f"'sha256-{digest}'" for digest in digests))
    assert not [
        value for _, a in shown.elements for value in (a.get("src"), a.get("href")) if value and value[0] not in "#d"
    ]
