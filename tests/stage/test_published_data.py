"""The published sample of the method's own data, as it is, through both stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from lite_huatuo import recipe as recipes
from lite_huatuo.data import sources
from lite_huatuo.run_dir import RunDir
from lite_huatuo.training import ppo, sft
from lite_huatuo.training.heldout import read_report
from lite_huatuo.training.progress import Quiet

pytestmark = pytest.mark.shared_data


class Notes(Quiet):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def sample(test_data: Path) -> str:
    return str(test_data / "upstream_sample" / "medical_o1_sample.json")


def both(overrides: tuple[str, ...], folder: Path) -> tuple[RunDir, list[str]]:
    recipe = recipes.load("demo", overrides)
    run, notes = RunDir.create(folder, recipe.model_dump()), Notes()
    sft.train(recipe, run, notes)
    ppo.train(recipe, run, notes)
    return run, notes.lines


def overrides(sample: str) -> tuple[str, ...]:
    return (
        f"data.sft={sample}",
        f"data.problems={sample}",
        "data.heldout=null",
        "data.heldout_share=0.03",
        "ppo.selection_problems=2",
        "ppo.total_episodes=8",
        "ppo.rollout.episodes=4",
        "sft.epochs=1.0",
    )


def test_it_loads_as_it_is(sample: str) -> None:
    examples, problems = sources.load_sft(sample), sources.load_problems(sample)
    assert len(examples) == len(problems) == 140
    assert all(len(example.complex_cot) > 1000 and example.ground_truth for example in examples)
    assert [p.question for p in problems] == [e.question for e in examples]


def test_both_stages_on_a_tiny_model(sample: str, toy: dict[str, str], tmp_path: Path) -> None:
    run, notes = both(
        (
            *overrides(sample),
            f"base.model={toy['model']}",
            "ppo.rollout.max_reply_length=24",
            "base.max_length=640",
            "data.max_query_length=400",
        ),
        tmp_path / "run",
    )
    assert set(read_report(run.path / "eval")) == {"base", "sft", "ppo"}
    assert " cut, " in notes[0]
    assert not notes[0].startswith("stage 1 (SFT): 0")


@pytest.mark.slow
def test_both_stages_on_the_demo_model(sample: str, tmp_path: Path) -> None:
    run, notes = both((*overrides(sample), "data.sft_limit=24"), tmp_path / "run")
    assert set(read_report(run.path / "eval")) == {"base", "sft", "ppo"}
    assert " cut, " in notes[0]
