"""The real base's first minute, rehearsed on a CPU with a tiny model in the base's place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lite_huatuo import recipe as recipes
from lite_huatuo.rehearsal import first_minute, steps
from lite_huatuo.rehearsal.steps import Stand
from tests import tiny


def test_one_step_of_each_kind_at_full_length_beside_plan(
    toy: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_minute, "WORDS", "fever ")  # the toy's tokenizer knows few words
    monkeypatch.setattr(first_minute, "SENTENCE_TOKENS", 2)
    tree = tiny.toy_recipe(toy)
    tree["base"]["max_length"] = 256
    tree["data"]["max_query_length"] = 160
    tree["sft"].update(microbatch_size=2, batch_size=4)
    tree["ppo"]["rollout"].update(batch_size=4, episodes=8)
    recipe = recipes.check(tree, "toy")
    stand = Stand(recipe, tmp_path, "cpu", [], {}, real=recipe)
    assert steps.first_minute(stand) is None

    run = tmp_path / "real" / "run"
    rows = [json.loads(line) for line in (run / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "sft/loss" in row] == [1], "one optimizer step"
    event = next(json.loads(line) for line in (run / "events.jsonl").open() if "sft started" in line)
    assert (event["examples"], event["cut"], event["dropped"]) == (2, 2, 0), "as long as the recipe allows"
    update = json.loads((run / "ppo" / "metrics.jsonl").read_text().splitlines()[-1])
    assert update["update"] == 1
    named = [line.split(":")[0] for line in stand.notes]
    assert named == list(first_minute.MEASURED)
    assert all("by `plan`" in line for line in stand.notes)
