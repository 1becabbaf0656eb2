"""The jobs that ask models, through their commands, against a scripted server on loopback."""

from __future__ import annotations

import functools
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo.data import client, store
from lite_huatuo.data.limits import Retries
from tests import scripted_teacher
from tests.scripted_server import KINDS, ScriptedServer, seeded_faults
from tests.stage import data_jobs
from tests.stage.data_jobs import KEY, KEY_ENV, STORE, command, job, total
from tests.teaching import Gate, impatient

FAST = functools.partial(client.Teacher, retries=Retries(first=0.01, longest=0.1), **data_jobs.PATIENCE)
GUIDED = ("--label-guided", "--max-failures", "1", "--attempts", "2", "--rounds", "2")


@pytest.fixture(autouse=True)
def key_and_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key in the environment; short waits between tries and looks."""
    monkeypatch.setenv(KEY_ENV, KEY)
    monkeypatch.setattr(client, "Teacher", FAST)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `problems/in.jsonl` and `exams/in.jsonl`, 60 rows each."""
    folder = tmp_path_factory.mktemp("inputs")
    data_jobs.write(folder / "problems" / "in.jsonl", data_jobs.problems(60))
    data_jobs.write(folder / "exams" / "in.jsonl", data_jobs.questions(60))
    return folder


@pytest.fixture(scope="module")
def whole(inputs: Path) -> Path:
    """The folder of an uninterrupted search, label-guided, one problem at a time."""
    folder = inputs / "problems" / "whole"
    with pytest.MonkeyPatch.context() as patch, ScriptedServer(scripted_teacher.reply) as server:
        patch.setenv(KEY_ENV, KEY)
        ended = command(*job("search", folder, server.url, *GUIDED, "--concurrency", 1))
    assert ended.code == 0, ended.err
    return folder


def spent(folder: Path) -> float:
    return sum(row.dollars for row in store.ledger(folder / STORE))


@pytest.mark.parametrize("concurrency", [8, 256])
def test_a_search_writes_the_same_whatever_the_concurrency(concurrency: int, inputs: Path, whole: Path) -> None:
    folder = inputs / "problems" / f"search-{concurrency}"
    with Gate(scripted_teacher.reply) as server:
        server.wanted = min(concurrency, 50)  # of 60 problems, whose shortest questions are equal
        ended = command(*job("search", folder, server.url, *GUIDED, "--concurrency", concurrency))
        assert server.wanted <= server.most <= concurrency, "they did run at one time, and no more"
        assert set(server.calls.values()) == {1}
    assert ended.code == 0, ended.err
    assert data_jobs.files(folder) == data_jobs.files(whole)


def test_the_search_went_every_way(whole: Path) -> None:
    """What the other tests compare is worth comparing: every strategy, solved and not, guided, failed."""
    searched, sft = data_jobs.rows(whole / "out.jsonl"), data_jobs.rows(whole / "out.sft.jsonl")
    strategies = Counter(one["strategy"].partition(":")[0] for row in searched for a in row["attempts"] for one in a)
    assert set(strategies) == {"first", "backtracking", "exploring", "verification", "correction", "label-guided"}
    assert {row["problem"]["language"] for row in searched} == {"en", "zh"}
    assert {row["solved"] for row in searched} == {True, False}
    assert {row["provenance"]["origin"] for row in sft} == {"searched", "label-guided"}
    assert {row["id"] for row in sft} <= {row["id"] for row in searched if row["solved"]}


def test_a_verifier_of_its_own_is_asked_and_exact_asks_nobody(inputs: Path) -> None:
    folder = inputs / "problems"
    with ScriptedServer(scripted_teacher.reply) as server, ScriptedServer(scripted_teacher.reply) as other:
        judge = data_jobs.profile(inputs / "judge", other.url, model="judge-1")
        for verifier in (judge, "exact"):
            to = folder / ("exact" if verifier == "exact" else "judged")
            ended = command(*job("search", to, server.url, *GUIDED, "--limit", 10, "--verifier", verifier))
            assert ended.code == 0, ended.err
        asked = Counter(row.model for row in store.ledger(folder / "judged" / STORE) if row.step == "search.verify")
        assert asked == {"judge-1": 1}
        assert {request["model"] for request in other.requests} == {"judge-1"}
        exact = store.ledger(folder / "exact" / STORE)
    assert {row.model for row in exact} == {"scripted-1"}
    assert "search.verify" not in {row.step for row in exact}


@pytest.mark.parametrize("name", ["filter", "reformat"])
def test_other_jobs_write_the_same_whatever_the_concurrency(name: str, inputs: Path) -> None:
    found = []
    for concurrency in (1, 8, 256):
        folder = inputs / "exams" / f"{name}-{concurrency}"
        with ScriptedServer(scripted_teacher.reply) as server:
            ended = command(*job(name, folder, server.url, "--max-failures", 1, "--concurrency", concurrency))
        assert ended.code == 0, ended.err
        found.append(data_jobs.files(folder))
    assert found[0] == found[1] == found[2]
    assert set(found[0]) == {"out.jsonl", "out.dropped.jsonl", "out.failed.jsonl"}
    rows = {side: data_jobs.rows(folder / side) for side in found[0]}
    assert sorted(row["id"] for kept in rows.values() for row in kept) == [f"q{number:05}" for number in range(60)]
    steps = {row["step"] for row in rows["out.dropped.jsonl"]}
    assert steps == ({"rules", "difficulty", "judge"} if name == "filter" else {"reformat"})


def test_thirty_per_cent_faults(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every problem ends solved, unsolved or recorded as failed, and every call is in the ledger."""
    folder = inputs / "problems" / "faults"
    with ScriptedServer(scripted_teacher.reply, faults=seeded_faults(3, 0.3)) as server:
        impatient(server, monkeypatch)
        ended = command(*job("search", folder, server.url, *GUIDED, "--concurrency", 64, timeout=300))
        assert ended.code == 0, ended.err
        assert set(server.faulted) == set(KINDS)
        assert sum(server.faulted.values()) / total(server) == pytest.approx(0.3, abs=0.05)
        searched, sft, failed = (data_jobs.rows(folder / f"out{side}.jsonl") for side in ("", ".sft", ".failed"))
        lost = [row["id"] for row in failed if row["step"] != "rewrite"]
        assert sorted([*(row["id"] for row in searched), *lost]) == [f"q{number:05}" for number in range(60)]
        not_rewritten = [row["id"] for row in failed if row["step"] == "rewrite"]
        assert sorted([*(row["id"] for row in sft), *not_rewritten]) == [row["id"] for row in searched if row["solved"]]
        assert all(row["reason"] for row in failed)
        assert len(searched) > 40, "faults are tried again"
        ledger = store.ledger(folder / STORE)
        assert sum(row.calls + row.failed for row in ledger) == total(server)
        assert sum(row.unanswered for row in ledger) == 0
        for number, side in ((len(searched), ""), (len(sft), ".sft"), (len(failed), ".failed")):
            assert f"{number:>8,}  {folder / f'out{side}.jsonl'}\n" in ended.out


def test_beginning_again_costs_nothing(inputs: Path, whole: Path) -> None:
    with ScriptedServer(scripted_teacher.reply) as server:
        before = data_jobs.files(whole)
        ended = command(*job("search", whole, server.url, *GUIDED, "--overwrite"))
        assert (ended.code, total(server)) == (0, 0)
    assert data_jobs.files(whole) == before


def test_the_budget_is_a_hard_stop_that_can_be_raised(inputs: Path, whole: Path) -> None:
    folder, limits = inputs / "problems" / "budget", (0.25, 0.5, 0.75)
    with ScriptedServer(scripted_teacher.reply, latency=0.001) as server:
        for share in limits:
            budget = round(spent(whole) * share + 0.03, 4)  # one call in flight may cost 2 cents
            ended = command(*job("search", folder, server.url, *GUIDED, "--budget", budget))
            assert ended.code == 1
            assert ended.err.split("\n")[-2].startswith(f"error: the budget of ${budget:.2f} is spent")
            assert "a larger budget" in ended.err
            assert "records are done" in ended.err
            assert spent(folder) <= budget
            assert spent(folder) > budget - 0.06, "it was used"
            assert not (folder / "out.jsonl").exists()
        ended = command(*job("search", folder, server.url, *GUIDED, "--budget", spent(whole) + 5))
        assert ended.code == 0, ended.err
        assert set(server.calls.values()) == {1}, "nothing was paid for twice"
    assert data_jobs.files(folder) == data_jobs.files(whole)
    assert spent(folder) == pytest.approx(spent(whole))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_and_the_same_command_goes_on(number: signal.Signals, inputs: Path, whole: Path) -> None:
    folder = inputs / "problems" / number.name
    with ScriptedServer(scripted_teacher.reply) as server:
        words = job("search", folder, server.url, *GUIDED)

        def slower(request: dict[str, Any], attempt: int) -> None:
            server.latency = 0.5 if total(server) >= due else 0.02  # it cannot end before it is stopped

        server.faults = slower
        for _ in range(2):
            due = total(server) + 150
            ended = data_jobs.stopped(words, server, 150, number)
            assert ended is not None
            assert ended.code == 128 + number
            assert ended.err.split("\n")[-2].startswith(f"stopped by {number.name} (")
            assert ended.err.endswith("records are done; the same command goes on after them)\n")
            assert "Traceback" not in ended.err
        server.faults = lambda request, attempt: None
        server.latency = 0.0
        assert command(*words).code == 0
        assert set(server.calls.values()) == {1}, "calls under way were seen to their end"
    assert data_jobs.files(folder) == data_jobs.files(whole)


def test_the_key_goes_to_the_base_url_and_nowhere_else(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = inputs / "problems" / "key"

    def echo(request: dict[str, Any]) -> str:
        return scripted_teacher.reply(request).replace("clue", f"{KEY} clue")

    with ScriptedServer() as elsewhere, ScriptedServer(echo, faults=seeded_faults(1, 0.1, ("500", "cut"))) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", elsewhere.url)
        monkeypatch.setenv("HTTP_PROXY", elsewhere.url)
        shown = [command(*job("search", folder, server.url, *GUIDED, "--limit", 20))]
        server.location = f"{elsewhere.url}/chat/completions"
        for number, status in enumerate(("307", "401", "403")):
            server.faults = lambda request, attempt, status=status: status
            shown.append(command(*job("search", folder.with_name(f"key{number}"), server.url, *GUIDED)))
        assert [ended.code for ended in shown] == [0, 1, 1, 1]
        assert server.keys == {f"Bearer {KEY}"}
        assert not elsewhere.paths
    for ended in shown:
        assert KEY not in ended.out + ended.err
    written = [path for number in ("", 0, 1, 2) for path in folder.with_name(f"key{number}").rglob("*")]
    assert len(written) > 10
    for path in written:
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_batch_jobs_write_the_same(inputs: Path, whole: Path) -> None:
    folder = inputs / "problems" / "batch"
    with ScriptedServer(scripted_teacher.reply, batch_polls=2) as server:
        ended = command(*job("search", folder, server.url, *GUIDED, "--batch"))
        assert ended.code == 0, ended.err
        assert server.paths["POST /v1/chat/completions"] == 0
        assert set(server.calls.values()) == {1}
        assert 10 < len(server.batches) < 80, "a wave asks for all problems"
    assert data_jobs.files(folder) == data_jobs.files(whole)
    assert spent(folder) == pytest.approx(spent(whole) / 2)


def test_a_stopped_batch_run_takes_its_jobs_up_again(inputs: Path, whole: Path) -> None:
    """One that is stopped while a job runs at the endpoint fetches that job's replies and sends nothing twice."""
    folder = inputs / "problems" / "batch-stopped"
    with ScriptedServer(scripted_teacher.reply, batch_polls=4) as server:
        words = job("search", folder, server.url, *GUIDED, "--batch")
        for jobs in (1, 4, 9):
            process = data_jobs.start(words)
            while len(server.batches) < jobs and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGTERM if jobs == 4 else signal.SIGKILL)
            _, err = process.communicate(timeout=60)
            assert process.returncode == (143 if jobs == 4 else -9), err
        assert command(*words).code == 0
        assert set(server.calls.values()) == {1}
    assert data_jobs.files(folder) == data_jobs.files(whole)


def test_merged_shards_equal_one_run(inputs: Path, whole: Path) -> None:
    parts, problems = [], inputs / "problems" / "in.jsonl"
    with ScriptedServer(scripted_teacher.reply) as server:
        for part in ("1/3", "2/3", "3/3"):
            folder = inputs / "problems" / f"shard-{part[0]}"
            ended = command(*job("search", folder, server.url, *GUIDED, "--shard", part))
            assert ended.code == 0, ended.err
            parts.append(folder / "out.jsonl")
    merged = inputs / "problems" / "merged" / "out.jsonl"
    merged.parent.mkdir()
    ended = command("data", "merge", *parts, "--like", problems, "--to", merged)
    assert ended.code == 0, ended.err
    assert data_jobs.files(merged.parent) == data_jobs.files(whole)
    assert ended.out.startswith(f"{len(data_jobs.rows(merged)):>8,}  {merged}\n") or f"  {merged}\n" in ended.out


@pytest.mark.parametrize(
    ("rows", "words", "code", "message"),
    [
        (None, [], 1, r"in.jsonl: no such file"),
        ([], [], 1, r"in.jsonl: holds no rows"),
        ([{"id": "a", "question": "Why is it so?", "ground_truth": "b"}] * 2, [], 1, r"id 'a' comes twice; ids must"),
        ([{"id": "a", "question": "Why is it so?"}], [], 1, r"in.jsonl:1: .*ground truth"),
        ("one", ["--teacher", "gpt-6-lun"], 1, r"gpt-6-lun: no such model profile or file; did you mean gpt-6-luna?"),
        ("one", ["--teacher", "gpt-6-luna"], 1, r"gpt-6-luna: no key; set the environment variable OPENAI_API_KEY"),
        ("one", ["--set", "modle=x"], 1, r"modle: unknown key; did you mean model"),
        ("one", ["--shard", "4/3"], 1, r"--shard 4/3: write it i/n"),
        ("one", ["--to", "out.txt"], 1, r"out.txt: an output's name ends in .jsonl"),
        ("one", ["--concurrency", "0"], 2, r"Invalid value for '--concurrency'"),
        ("one", ["--verifier", "nobody"], 1, r"nobody: no such model profile or file"),
        ("unreachable", [], 1, r"no connection to http://127.0.0.1:9/v1 .*: nobody answers there"),
        ("unknown model", [], 1, r"HTTP 404 .*no such model or address; check model \(scripted-1\) and base_url"),
        ("wrong key", [], 1, r"HTTP 401 .*set the environment variable TEACHER_KEY"),
        ("existing", [], 1, r"out.jsonl: already exists; give another name, or --overwrite"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_what_is_wrong_is_told_in_a_line(
    rows: Any, words: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    folder = tmp_path / "made"
    folder.mkdir()
    kind = rows if isinstance(rows, str) else ""
    faults = {"unknown model": "404", "wrong key": "401"}.get(kind)
    with ScriptedServer(scripted_teacher.reply, faults=lambda request, attempt: faults) as server:
        url = "http://127.0.0.1:9/v1" if kind == "unreachable" else server.url
        if rows is not None:
            data_jobs.write(tmp_path / "in.jsonl", data_jobs.problems(1) if kind else rows)
        if kind == "existing":
            (folder / "out.jsonl").write_text("{}\n")
        ended = command(*job("search", folder, url, *words))
    assert ended.code == code, ended
    told = ended.err.strip().split("\n")
    assert re.search(message, told[-1]), ended.err
    assert len([line for line in told if "0/1" not in line and "1/1" not in line]) == (1 if code == 1 else len(told))
    assert "Traceback" not in ended.err
    if kind == "existing":
        assert (folder / "out.jsonl").read_text() == "{}\n"
    else:
        assert not list(folder.glob("*.jsonl")), "nothing half-written"
    if kind not in ("unknown model", "wrong key", "unreachable"):
        assert not list(folder.glob(".*")), "nothing begun"


def test_an_unfinished_job_with_other_settings_is_refused(inputs: Path) -> None:
    folder = inputs / "problems" / "settings"
    with ScriptedServer(scripted_teacher.reply) as server:
        assert command(*job("search", folder, server.url, *GUIDED, "--budget", 0.05)).code == 1
        for words, named in (
            (["--seed", "7"], "seed"),
            (["--set", "reasoning_effort=low", "--set", "reasoning_efforts=[low]"], "models"),
            (["--limit", "10"], "limit"),
        ):
            ended = command(*job("search", folder, server.url, *GUIDED, *words))
            assert ended.code == 1
            assert f"an unfinished job with other settings ({named})" in ended.err
        ended = command(*job("search", folder, server.url, *GUIDED, "--seed", 7, "--overwrite"))
        assert ended.code == 0, ended.err
