"""Jobs of the data pipeline for tests: their inputs, a profile for the scripted server, and what they wrote."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lite_huatuo.cli.main import main
from tests.scripted_server import ScriptedServer

REPOSITORY = Path(__file__).parent.parent.parent
PATIENCE = {"quiet": 0.1, "poll": 0.05}  # of batch jobs, in seconds
CODE = (
    "import functools; from lite_huatuo.data import client; from lite_huatuo.cli.main import main; "
    f"client.Teacher = functools.partial(client.Teacher, **{PATIENCE}); main()"
)
KEY, KEY_ENV = "sk-distinctive-31415926535", "TEACHER_KEY"
STORE = "requests.sqlite"
CASE = {
    "en": "A {age}-year-old {who} has had {sign} for {days} days, without fever, weight loss or any earlier illness. ",
    "zh": "患者，{age}岁，{sign}已{days}天，无发热及体重下降，既往体健，否认家族史及药物过敏史，查体未见明显异常，"
    "实验室检查待回报，门诊以“待查”收住入院，入院后一般情况尚可，饮食睡眠正常，二便如常，为进一步明确诊断完善检查。",
}
ASK = {"en": "What is the most likely cause of it?", "zh": "最可能的病因是什么？"}
SIGNS = {"en": ("a cough", "a rash", "headaches", "a swollen knee"), "zh": ("咳嗽", "皮疹", "头痛", "膝关节肿胀")}


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def questions(count: int) -> list[dict[str, Any]]:
    """Return exam questions, every third Chinese; every tenth is too short."""
    rows = []
    for number in range(count):
        language = "zh" if number % 3 == 2 else "en"
        case = CASE[language].format(
            age=20 + number, who=("man", "woman")[number % 2], sign=SIGNS[language][number % 4], days=number + 2
        )
        question = ASK[language] if number % 10 == 9 else f"{case}{ASK[language]}"
        options = {letter: f"cause {number}{letter.lower()}" for letter in "ABCDE"}
        idx = "ABCDE"[number % 5]
        rows.append({"id": f"q{number:05}", "question": question, "options": options, "answer_idx": idx})
    return rows


def problems(count: int) -> list[dict[str, Any]]:
    """Return verifiable problems."""
    return [
        {"id": row["id"], "question": row["question"], "ground_truth": row["options"][row["answer_idx"]]}
        for row in questions(count)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def profile(folder: Path, url: str, **values: Any) -> Path:
    """Write a profile of the server's model, which costs money and wants a key."""
    content = {
        "name": "scripted", "model": "scripted-1", "base_url": url, "key_env": KEY_ENV, "json_schema": "schema",
        "seed": True, "prices": {"input": 1.0, "output": 4.0, "batch_discount": 0.5}, "concurrency": 16, "timeout": 20,
        **values,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "profile.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def command(*words: object) -> Ended:
    """Run the command line in this process."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["lite-huatuo", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        return Ended(int(ended.code or 0), out.getvalue(), err.getvalue())
    finally:
        sys.argv = argv
    raise AssertionError("main exits")


def job(name: str, folder: Path, url: str, *words: object, **values: Any) -> list[str]:
    """Return the words of a job on `in.jsonl` beside the folder, with everything it writes inside the folder."""
    made = profile(folder / "profile", url, **values)
    given = ["--teacher", made] + (["--solver", made] if name == "filter" else [])
    return list(map(str, ["data", name, folder.parent / "in.jsonl", "--to", folder / "out.jsonl", "--store",
                          folder / STORE, *given, *words]))  # fmt: skip


def start(words: list[str]) -> subprocess.Popen[str]:
    """Start a command as a process."""
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *words], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def stopped(words: list[str], server: ScriptedServer, calls: int, number: signal.Signals) -> Ended | None:
    """Start a command, send a signal once the server has been asked `calls` more times; None where it ended before."""
    process, before = start(words), total(server)
    while total(server) - before < calls and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return Ended(process.returncode, out, err) if process.returncode else None


def total(server: ScriptedServer) -> int:
    """Return how many chat completions the server was asked for."""
    return sum(server.calls.values())


def files(folder: Path) -> dict[str, bytes]:
    """Return what a job wrote: outputs, and what it should not have left behind."""
    return {
        path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file() and STORE not in path.name
    }


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
