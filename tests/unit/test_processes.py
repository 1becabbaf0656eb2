"""How work is shared out among processes, who starts them, and what cannot be done together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.data_loader import SeedableRandomSampler
from hypothesis import given
from hypothesis import strategies as st

from lite_huatuo import recipe as recipes
from lite_huatuo.errors import BackendError
from lite_huatuo.planning import launch
from lite_huatuo.processes import ALONE, Processes, first_host, interleave, join, slurm_variables
from lite_huatuo.recipe import Recipe
from lite_huatuo.training.ppo_update import balanced
from lite_huatuo.training.sft_trainer import EvenSampler


@given(st.lists(st.integers()), st.integers(1, 5))
def test_parts_make_the_whole(items: list[int], count: int) -> None:
    parts = [Processes(rank, count).part(items) for rank in range(count)]
    assert interleave(parts) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_process_needs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join() is ALONE
    assert ALONE.main
    assert ALONE.gather(3) == [3]
    assert ALONE.merge([1, 2]) == [1, 2]
    assert ALONE.most(2) == 2
    assert ALONE.add({"a": 0.5}) == {"a": 0.5}
    with pytest.raises(ZeroDivisionError):
        ALONE.once(lambda: 1 // 0)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(1, 8))
def test_a_minibatch_is_dealt_out_by_tokens(lengths: list[int], count: int) -> None:
    parts = balanced(lengths, count)
    assert sorted(index for part in parts for index in part) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in part) for part in parts]
    assert max(loads) - min(loads) <= max(lengths)  # the longest first: no gap larger than one row


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
def test_every_step_holds_the_examples_of_one_process_and_divides(
    examples: int, size: int, microbatch: int, count: int, epoch: int
) -> None:
    unit = microbatch * count
    sampler = EvenSampler(examples, size=size, unit=unit, filler=-1, seed=7, epoch=lambda: epoch)
    order = list(sampler)
    assert len(order) == len(sampler)
    assert len(order) % unit == 0
    alone = SeedableRandomSampler(range(examples), data_seed=7)
    alone.set_epoch(epoch)
    expected = list(alone)
    width = -(-size // unit) * unit
    steps = [[i for i in order[start : start + width] if i >= 0] for start in range(0, len(order), width)]
    assert steps == [expected[start : start + size] for start in range(0, examples, size)]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[03-05,9],cpu1", "gpu03"),
        ("gpu[7,9]", "gpu7"),
        ("node1,node[3-4]", "node1"),
        ("login", "login"),
        ("rack[1-2]-gpu", "rack1-gpu"),
    ],
)
def test_the_first_host_of_a_list_is_where_all_meet(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_srun_starts_processes_and_a_batch_script_is_one() -> None:
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "123456"}
    found = slurm_variables({**step, "SLURM_STEP_NODELIST": "gpu[1-2]"})
    assert found == {
        "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu1", "MASTER_PORT": "23456",
    }  # fmt: skip
    assert slurm_variables({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) == {}


def changed(recipe: Recipe, **launching: object) -> Recipe:
    return recipe.model_copy(update={"launch": recipe.launch.model_copy(update=launching)})


def test_processes_are_started_once(short_recipe: Recipe) -> None:
    several = changed(short_recipe, processes=2)
    assert launch.needed(several, {})
    assert not launch.needed(short_recipe, {})
    assert not launch.needed(several, {"WORLD_SIZE": "2"})
    assert not launch.needed(several, {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"})


@pytest.mark.parametrize(
    ("override", "strategy", "key"),
    [
        ("ppo.rollout.engine=vllm", "ddp", "ppo.rollout.engine"),
        ("base.keep_dequantised=true", "fsdp2", "base.keep_dequantised"),
        ("ppo.critic.trunk=reference", "fsdp2", "ppo.critic.trunk"),
        ("base.backend=unsloth", "fsdp2", "base.backend"),
        ("ppo.rollout.episodes=2", "ddp", "ppo.rollout.episodes"),
    ],
)
def test_what_does_not_go_together_is_refused(override: str, strategy: str, key: str) -> None:
    recipe = recipes.load("qwen7b", (override, f"launch.strategy={strategy}"))
    launch.check(recipe, 1)
    with pytest.raises(BackendError, match=key):
        launch.check(recipe, 3)


def test_accelerate_reads_its_configuration(tmp_path: Path) -> None:
    for machines, address in ((1, None), (2, "node01")):
        path = tmp_path / "accelerate.yaml"
        path.write_text(yaml.safe_dump(launch.accelerate_config(8, machines=machines, address=address)))
        read = load_config_from_file(str(path))  # refuses keys it does not know
        assert (read.num_processes, read.num_machines, read.main_process_ip) == (8, machines, address)
        assert read.distributed_type == "MULTI_GPU"
        assert read.mixed_precision == "no"
    with pytest.raises(BackendError, match="3 machines"):
        launch.accelerate_config(8, machines=3, address="node01")
    with pytest.raises(BackendError, match="--address"):
        launch.accelerate_config(8, machines=2)


def test_gradients_of_one_process_are_left_alone() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    ALONE.add_gradients([parameter])
    assert parameter.grad is None
