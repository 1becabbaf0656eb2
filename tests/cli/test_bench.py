"""`bench --card` as a user meets it: the whole of it on a CPU with a tiny base, and what a failure leaves."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lite_huatuo.bench import card_file, table
from lite_huatuo.bench.checks import CHECKS

KEY = "sk-never-to-be-sent-0123456789"
PATIENT = ("--minutes", "60")
# The check of unsloth needs a card.
ON_A_CPU = dict.fromkeys(CHECKS, "passed") | {"unsloth": "not run"}
DAMAGED = ("config.json", "not JSON")


def bench(*words: object, **options: object) -> subprocess.Popen[str]:
    """Start a rehearsal; a key is in its environment."""
    command = [sys.executable, "-m", "lite_huatuo", "bench", "--card", "--size", "tiny", *map(str, words)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPENAI_API_KEY": KEY},
        **options,
    )


def statuses(card: dict) -> dict[str, str]:
    return {name: each["status"] for name, each in card["checks"].items()}


def damaged_base(folder: Path) -> None:
    """Put a base there that claims to be whole and cannot be loaded."""
    base = folder / "work" / "base"
    base.mkdir(parents=True)
    (base / "whole").touch()
    (base / DAMAGED[0]).write_text(DAMAGED[1])


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, int]:
    """The folder of a whole rehearsal, what it printed, and its exit code."""
    folder = tmp_path_factory.mktemp("bench") / "card"
    started = bench("--to", folder, *PATIENT)
    out, err = started.communicate()
    assert (folder / "card.json").exists(), err
    return folder, out, started.returncode


@pytest.fixture(scope="module")
def card(rehearsed: tuple[Path, str, int]) -> dict:
    """card.json of the whole rehearsal."""
    return json.loads((rehearsed[0] / "card.json").read_text())


def test_every_check_runs_on_a_cpu(rehearsed: tuple[Path, str, int], card: dict) -> None:
    reasons = {name: each.get("reason") for name, each in card["checks"].items() if each.get("reason")}
    assert (statuses(card), rehearsed[2]) == (ON_A_CPU, 0), reasons
    assert list(card["checks"]) == list(CHECKS)
    assert (card["device"], card["size"]) == ("cpu", "tiny")


def test_what_must_hold_holds(card: dict) -> None:
    figures = {name: each.get("figures", {}) for name, each in card["checks"].items()}
    claims = {claim: holds for each in figures.values() for claim, holds in each.get("holds", {}).items()}
    assert all(claims.values())
    assert len(claims) > 10
    assert figures["isolation"]["moved_by_the_critics_step"] == ["critic"]
    assert figures["isolation"]["moved_by_a_step_of_both"] == ["actor", "critic"]
    assert set(figures["training"]["resumed_beside_undisturbed"].values()) == {0.0}
    assert min(figures["training"]["moved"].values()) > 0
    assert figures["learning"]["optimizer_states"] > 0


def test_every_phase_stands_beside_plan(card: dict) -> None:
    rows = [row for each in card["checks"].values() for row in each.get("figures", {}).get("memory", [])]
    phases = {re.split(r"[ ,]", row["phase"].removeprefix("PPO, "))[0] for row in rows}
    assert phases == {"load", "SFT", "rollout", "scoring", "update"}
    assert all(row["predicted_mib"] > 0 for row in rows)
    speeds = [row for each in card["checks"].values() for row in each.get("figures", {}).get("speed", [])]
    assert {"SFT", "reading", "writing", "scoring", "learning"} <= {row["phase"] for row in speeds}
    assert all(row["tokens_per_second"] > 0 for row in speeds)
    assert {row["what"].split()[0] for row in speeds if row["phase"] == "writing"} == {"2", "4"}


def test_the_table_is_what_card_json_says(rehearsed: tuple[Path, str, int], card: dict) -> None:
    folder, out, _ = rehearsed
    page = (folder / "card.md").read_text()
    assert page.strip() == out.strip() == table.markdown(card).strip()
    assert "A rehearsal on a CPU" in page
    row = card["checks"]["training"]["figures"]["memory"][0]
    line = next(line for line in page.split("\n") if line.startswith("| SFT |"))
    assert f"| {row['predicted_mib']} | {row['measured_mib']} |" in line
    assert f"| {row['measured_mib'] / row['predicted_mib']:.2f} |" in line
    assert "| a step of both moves actor and critic alone | yes |" in page


def test_nobody_is_named(rehearsed: tuple[Path, str, int]) -> None:
    folder = rehearsed[0]
    for name in ("card.json", "card.md"):
        text = (folder / name).read_text()
        for private in (KEY, str(folder), str(Path.home()) + "/", platform.node(), os.path.dirname(sys.executable)):
            assert private not in text, private


def test_the_work_is_deleted_and_the_results_stay(rehearsed: tuple[Path, str, int]) -> None:
    assert sorted(path.name for path in rehearsed[0].iterdir()) == ["card.json", "card.md", "log.txt", "tests.txt"]


def test_a_check_that_fails_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    damaged_base(tmp_path)
    started = bench("--to", tmp_path, "--only", "load", "--only", "nf4", "--only", "decoding", "--json", *PATIENT)
    out, err = started.communicate()
    found = json.loads(out)
    assert started.returncode == 1, err
    assert statuses(found) == {"environment": "passed", "nf4": "passed", "load": "failed", "decoding": "failed"}
    reason = found["checks"]["load"]["reason"]
    assert "config" in reason
    assert str(tmp_path) not in (tmp_path / "card.json").read_text(), reason
    assert f"load: failed in {found['checks']['load']['seconds']} s" in err
    assert "load" in (tmp_path / "card.md").read_text()


def test_a_check_that_takes_too_long_is_ended_and_the_others_are_said_to_be_left(tmp_path: Path) -> None:
    started = bench("--to", tmp_path, "--only", "nf4", "--json", "--minutes", "0.005")
    found = json.loads(started.communicate()[0])["checks"]
    assert started.returncode == 1
    assert found["environment"]["status"] == "failed"
    assert "not done in" in found["environment"]["reason"]
    assert found["nf4"] == {"status": "not run", "reason": "the time of the whole bench was over"}


def test_a_kill_loses_nothing_that_was_done(tmp_path: Path) -> None:
    started = bench("--to", tmp_path, "--only", "nf4", "--only", "base", *PATIENT)
    done = 0
    while started.poll() is None and done < 2:  # two checks of three
        time.sleep(0.05)
        if (tmp_path / "card.json").exists():
            found = json.loads((tmp_path / "card.json").read_text())  # whole at every moment
            done = list(statuses(found).values()).count("passed")
    started.send_signal(signal.SIGKILL)
    started.communicate()
    killed = json.loads((tmp_path / "card.json").read_text())
    assert statuses(killed)["environment"] == statuses(killed)["nf4"] == "passed"
    deadline = time.monotonic() + 60
    while left := [each.pid for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(each.info["cmdline"])]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    again = bench("--to", tmp_path, "--only", "environment", "--json", *PATIENT)
    out, err = again.communicate()
    assert again.returncode in (0, 1), err
    found = json.loads(out)["checks"]
    assert found["nf4"] == killed["checks"]["nf4"]
    if killed["checks"]["base"]["status"] == "running":
        assert found["base"] == {"status": "not run", "reason": "was ended with the whole bench"}
    assert "passed before, kept as they are: nf4" in err


def test_without_a_card_it_says_what_to_do(run, tmp_path: Path) -> None:
    code, _, err = run("bench", "--card", "--to", tmp_path / "card")
    assert code == 1
    assert "no CUDA card" in err
    assert "--size tiny" in err
    assert not (tmp_path / "card").exists()


def test_a_wrong_use_is_told(run, tmp_path: Path) -> None:
    code, _, err = run("bench", "--card", "--only", "decodng")
    assert code == 2
    assert "decodng" in err
    assert "decoding" in err
    assert run("bench")[0] == 2
    (tmp_path / "card.json").write_text("{}")
    code, _, err = run("bench", "--card", "--size", "tiny", "--to", tmp_path)
    assert code == 1
    assert "is no card of a bench" in err
    card_file.write(tmp_path, card_file.new("7b", "cuda"))
    code, _, err = run("bench", "--card", "--size", "tiny", "--to", tmp_path)
    assert code == 1
    assert "of another bench (size 7b, device cuda)" in err


def test_texts_of_others_are_freed_of_what_names_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "ward7.hospital.example")
    monkeypatch.setenv("LOGNAME", "li.wei")
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef")
    told = {
        "reason": "OSError: /home/li.wei/runs/a b: no /mnt/x/base.json on ward7 for li.wei (hf_abcdef) at 12 tokens/s",
        "list": ["~/secret/place", "Qwen/Qwen2.5-7B", "ward7.hospital.example"],
    }
    assert card_file.anonymous(told) == {
        "reason": "OSError: …/a b: no …/base.json on … for … (…) at 12 tokens/s",
        "list": ["…/place", "Qwen/Qwen2.5-7B", "…"],
    }
