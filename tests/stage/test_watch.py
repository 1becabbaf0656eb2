"""PPO against a verifier that can be fooled: without the watch the score rises by the trick, with it the run stops."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from lite_huatuo import jsonl
from lite_huatuo import recipe as recipes
from lite_huatuo.errors import BackendError, RecordError, WatchStop
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import ppo, sft
from lite_huatuo.verifier import choose
from lite_huatuo.verifier.base import Item, Verdict
from lite_huatuo.verifier.exact import ExactVerifier
from tests import tiny

TRICK = "Thought process:"


class Fooled:
    """Calls any reply right that holds an empty opener; otherwise as the exact verifier."""

    name, background = "fooled", True

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        exact = ExactVerifier().verify(items)
        return [Verdict(True, TRICK) if TRICK in i.final_response else v for i, v in zip(items, exact, strict=True)]


class Down:
    """A judge that answers some of the time."""

    name, background = "down", True

    def __init__(self, share: float) -> None:
        self.share = share

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        up = round(self.share * len(items))
        return [Verdict(True) if i < up else Verdict(None, failure="HTTP 503") for i in range(len(items))]


@pytest.fixture(scope="module")
def tricked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The toy task, with every fifth SFT example teaching the trick, and a tokenizer that knows its words."""
    return write_tricked(tmp_path_factory.mktemp("tricked"))


def write_tricked(folder: Path) -> dict[str, str]:
    files = tiny.write_toy(folder)
    rows = [row for _, row in jsonl.iter_rows(Path(files["sft"]))]
    for row in rows[::5]:
        row["response"] = TRICK
    jsonl.write(Path(files["sft"]), rows)
    tiny.make_model(Path(files["model"]), tiny.toy_texts(rows), vocabulary=400)
    return files


def recipe(files: dict[str, str], **ppo_changes: object) -> Recipe:
    tree = tiny.toy_recipe(files)
    tree["ppo"].update({"total_episodes": 1280, "selection_problems": 4, "save_every": 2, **ppo_changes})
    return recipes.check(tree, "tricked")


@pytest.fixture(scope="module")
def start(tricked: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run after stage 1."""
    made = recipe(tricked)
    run = RunDir.create(tmp_path_factory.mktemp("start") / "run", made.model_dump())
    sft.train(made, run)
    return run


def continued(start: RunDir, made: Recipe, folder: Path) -> RunDir:
    import shutil

    shutil.copytree(start.path, folder / "run")
    return RunDir(folder / "run")


def metrics(run: RunDir) -> list[dict]:
    """Return the rows of the updates; row 0 is the SFT policy's evaluation."""
    path = run.stage("ppo") / "metrics.jsonl"
    return [row for _, row in jsonl.iter_rows(path) if row["update"]] if path.exists() else []


def test_without_the_watch_the_score_rises_by_the_trick_and_with_it_the_run_stops(
    start: RunDir, tricked: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "make", lambda section, **_: Fooled() if section["kind"] == "api" else ExactVerifier())
    (tmp_path / "off").mkdir()
    (tmp_path / "on").mkdir()
    second = {"kind": "exact"}
    off = recipe(tricked, watch={"verifier": second, "gap": None})
    off = off.model_copy(update={"verifier": off.verifier.model_copy(update={"kind": "api", "profile": "local"})})
    blind = continued(start, off, tmp_path / "off")
    ppo.train(off, blind, accept_verifier=True)
    last = metrics(blind)[-1]
    assert last["score/mean"] >= 0.9, "the trick pays"
    assert last["watch/second_right_share"] <= 0.2, "and no answer is right any more"

    on = recipe(tricked, watch={"verifier": second, "gap": 0.4, "patience": 3})
    on = on.model_copy(update={"verifier": off.verifier})
    watched = continued(start, on, tmp_path / "on")
    with pytest.raises(WatchStop, match="second verifier calls wrong: gap ") as stopped:
        ppo.train(on, watched, accept_verifier=True)
    rows = metrics(watched)
    passed = next(row["update"] for row in metrics(blind) if row["watch/gap"] > 0.4)
    assert len(rows) < 20, "stopped early"
    assert rows[-1]["update"] <= passed + 4
    named = re.search(r"Last good policy: (\S+)\. ", str(stopped.value))
    assert named
    good = Path(named[1])
    assert (good / "actor" / "adapter_model.safetensors").is_file()
    assert [row["watch/gap"] <= 0.4 for row in rows if row["update"] == int(good.name[-6:])] == [True]
    events = [row for _, row in jsonl.iter_rows(watched.path / "events.jsonl")]
    assert [e["streak"] for e in events if e["event"] == "watch"][-3:] == [1, 2, 3]


def test_a_judge_that_is_often_down_costs_episodes_and_one_that_is_always_down_stops_the_run(
    start: RunDir, tricked: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(tricked)
    tree = made.model_dump()
    tree["ppo"].update(total_episodes=64, selection_problems=1)
    made = recipes.check(tree, "down")
    (tmp_path / "some").mkdir()
    (tmp_path / "none").mkdir()
    monkeypatch.setattr(choose, "make", lambda section, **_: Down(0.9))
    run = continued(start, made, tmp_path / "some")
    ppo.train(made, run, accept_verifier=True)
    row = metrics(run)[-1]
    assert 1 <= row["score/dropped"] <= 12, "dropped and counted, never scored"
    monkeypatch.setattr(choose, "make", lambda section, **_: Down(0.2))
    run = continued(start, made, tmp_path / "none")
    with pytest.raises(RecordError, match=r"the verifier judged \d+ of 64 episodes \(HTTP 503\).*--resume"):
        ppo.train(made, run, accept_verifier=True)
    monkeypatch.setattr(choose, "make", lambda section, **_: ExactVerifier())
    ppo.train(made, run)
    assert run.is_done("ppo"), "resumable once the judge is back"


def test_a_verifier_below_the_bar_is_refused_unless_it_is_accepted(
    start: RunDir, tricked: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = recipe(tricked).model_dump()
    tree["ppo"].update(total_episodes=64, selection_problems=1)
    made = recipes.check(tree, "yes")

    class Yes(Fooled):
        def verify(self, items: Sequence[Item]) -> list[Verdict]:
            return [Verdict(True) for _ in items]

    monkeypatch.setattr(choose, "make", lambda section, **_: Yes())
    run = continued(start, made, tmp_path)
    with pytest.raises(
        BackendError, match=r"not accepted: on the shipped suite its accuracy is 0\.\d+.*--accept-verifier"
    ):
        ppo.train(made, run)
    assert not metrics(run)
    ppo.train(made, run, accept_verifier=True)
    kept = json.loads((run.path / "verifier.json").read_text())
    assert kept["verifier"] == "fooled"
    assert "accept_at is 0.9" in kept["below_the_bar"]
    assert kept["report"]["false_positive_rate"]["value"] == 1.0
