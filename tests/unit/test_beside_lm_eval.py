"""What benchmarks/beside_lm_eval.py relies on: the harness gets the prompts that `eval` sends, and every difference
between the rules has its class."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import jinja2
import pytest

from lite_huatuo.evaluation import answers, benchmarks, run
from lite_huatuo.evaluation.targets import Ask, Keep, Sampling, Written
from lite_huatuo.records import ExamQuestion
from lite_huatuo.training.progress import Quiet

FILE = Path(__file__).parents[2] / "benchmarks" / "beside_lm_eval.py"
OPTIONS = {"A": "a {{ b }} ${c}", "B": "50 %\n", "C": "α <b>"}
QUESTIONS = [ExamQuestion(f"q{n}", f"Sign {n}?\u2028{{% if x %}}", OPTIONS, "B", "50 %") for n in range(3)]


@pytest.fixture(scope="module")
def beside() -> ModuleType:
    spec = importlib.util.spec_from_file_location("beside_lm_eval", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Listening:
    """Keeps the prompts it is sent."""

    identity, max_tokens = {"model": "m"}, 8

    def __init__(self) -> None:
        self.prompts: dict[str, str] = {}

    def write(self, asks: Sequence[Ask], sampling: Sampling, keep: Keep) -> None:
        self.prompts.update({ask.id: ask.prompt for ask in asks})
        keep([(ask, Written("The answer is B.", 5, True)) for ask in asks])


def test_the_harness_gets_the_prompts_that_eval_sends(beside: ModuleType, tmp_path: Path) -> None:
    benchmark, writer = benchmarks.shipped()["medqa"], Listening()
    loaded = benchmarks.Loaded(QUESTIONS, [])
    run.evaluate(writer, "medqa", benchmark, loaded, tmp_path, sampling=Sampling(0.0, 1.0, 8, 0), progress=Quiet())
    documents = beside.documents(benchmark, QUESTIONS)
    written, likely = beside.tasks(tmp_path / "questions.jsonl", 8)
    for task in (written, likely):
        template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(task["doc_to_text"])
        assert {doc["id"]: template.render(**doc) for doc in documents} == writer.prompts
    assert written["generation_kwargs"] == {"until": [], "do_sample": False, "max_gen_toks": 8}
    assert [doc["letters"].index(doc["right"]) for doc in documents] == [1, 1, 1]


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        ("The answer is B.", "read alike"),
        ("A. a\nB. b", "read by neither"),
        ("The answer is E.", "regex: a letter that is no option"),
        ("The answer is A or B.", "regex alone: not clear enough for strict"),
        ("The answer is A.\nThe answer is C.", "regex alone: several answers stated"),
        ("Correct option: B", "strict alone: in other words than the regex's"),
    ],
)
def test_a_difference_has_a_class(beside: ModuleType, reply: str, wanted: str) -> None:
    options = {"A": "x", "B": "y", "C": "z"}
    strict = answers.read("strict", reply, options)
    assert beside.why(strict, beside.by_regex(reply), reply, options) == wanted
    assert beside.why("C", "A", reply, options) == "both, and not the same"
