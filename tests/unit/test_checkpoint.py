"""What a checkpoint keeps of optimizers and random states, and what of it fits another machine."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from lite_huatuo.errors import CheckpointError
from lite_huatuo.training import checkpoint, ppo_update

SIZES = (5000, 100)  # from 4,096 numbers on 8-bit optimizers have 8-bit states


def stepped(name: str, seed: int) -> tuple[torch.optim.Optimizer, list[torch.nn.Parameter]]:
    """Return an optimizer after three steps, and what it learns."""
    torch.manual_seed(seed)
    parameters = [torch.nn.Parameter(torch.randn(size)) for size in SIZES]
    optimizer = ppo_update._optimizer(name)(parameters, lr=1e-2)
    for _ in range(3):
        step(optimizer, parameters)
    return optimizer, parameters


def step(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape)
    optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "paged_adamw_8bit"])
def test_a_restored_optimizer_goes_on_to_the_bit(name: str, tmp_path: Path) -> None:
    whole, learned = stepped(name, 1)
    tensors, scalars = checkpoint.pack_optimizers({"actor": whole})
    save_file(tensors, tmp_path / "o.safetensors")
    other, moved = stepped(name, 2)
    checkpoint.unpack_optimizers({"actor": other}, load_file(tmp_path / "o.safetensors"), scalars)
    for one, two in zip(learned, moved, strict=True):
        two.data.copy_(one.data)
    for each in ((whole, learned), (other, moved)):
        torch.manual_seed(3)
        step(*each)
    assert all(one.equal(two) for one, two in zip(learned, moved, strict=True))


def test_the_keys_of_flat_states_are_what_they_were() -> None:
    """Checkpoints of before optimizers could nest their states are read on."""
    tensors, scalars = checkpoint.pack_optimizers({"actor": stepped("adamw", 1)[0]})
    assert scalars == {}
    assert set(tensors) == {f"actor.{index}.{key}" for index in (0, 1) for key in ("step", "exp_avg", "exp_avg_sq")}


@pytest.mark.parametrize("kept", [[1.0, 2.0], {"inner": (1,)}, object()])
def test_a_state_that_no_checkpoint_can_hold_is_refused_before_anything_is_written(kept: Any, tmp_path: Path) -> None:
    optimizer, parameters = stepped("adamw", 1)
    optimizer.state[parameters[0]]["odd"] = kept
    nothing: Any = None
    with pytest.raises(CheckpointError, match=r"AdamW keeps a \w+ in critic\.0\.odd\S*, which .* set another"):
        checkpoint.save(tmp_path / "update-000001", nothing, nothing, {"critic": optimizer}, {"update": 1}, run=None)
    assert not list(tmp_path.iterdir())


class Cards:
    """Stands in for `torch.cuda` on a machine with some devices: sets and remembers their random states."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int, current: int = 0) -> None:
        self.states = [torch.full((16,), 100 + card, dtype=torch.uint8) for card in range(count)]
        self.current = current
        for name in ("get_rng_state_all", "set_rng_state"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    def get_rng_state_all(self) -> list[torch.Tensor]:
        return [state.clone() for state in self.states]

    def set_rng_state(self, state: torch.Tensor, device: int | None = None) -> None:
        self.states[self.current if device is None else device] = state  # IndexError where there is no such device

    @property
    def numbers(self) -> list[int]:
        return [int(state[0]) for state in self.states]


def drawn() -> list[float]:
    return [random.random(), numpy.random.rand(), torch.rand(()).item()]


@pytest.mark.parametrize(("wrote", "here"), [(4, 1), (1, 4), (12, 12), (2, 0), (0, 2), (0, 0)])
def test_random_states_of_another_number_of_cards_are_restored_as_far_as_they_fit(
    wrote: int, here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Cards(monkeypatch, wrote)
    before.states = [torch.full((16,), card, dtype=torch.uint8) for card in range(wrote)]
    tensors, states = checkpoint.random_states()
    wanted = drawn()
    after = Cards(monkeypatch, here)
    note = checkpoint.restore_random_states(dict(sorted(tensors.items())), states)
    assert drawn() == wanted
    fit = min(wrote, here)
    assert after.numbers == [*range(fit), *range(100 + fit, 100 + here)]
    expected = f"holds the random states of {wrote} CUDA devices, here are {here}; as many as fit were restored"
    assert note == (None if wrote == here else expected)


def write_states(folder: Path, monkeypatch: pytest.MonkeyPatch, processes: int, cards: int) -> None:
    """Write what each of some processes on a machine with some cards keeps."""
    for rank in range(processes):
        torch.manual_seed(rank), random.seed(rank), numpy.random.seed(rank)
        machine = Cards(monkeypatch, cards)
        machine.states = [torch.full((16,), 10 * rank + card, dtype=torch.uint8) for card in range(cards)]
        checkpoint.save_random_states(folder, rank)


@pytest.mark.parametrize(
    ("wrote", "rank", "count", "here", "of", "cards", "told"),
    [
        ((1, 1), 0, 1, 1, 0, [0], []),
        ((4, 4), 2, 4, 4, 2, [20, 21, 22, 23], []),
        ((4, 4), 0, 1, 1, 0, [0], ["another number of processes", "4 CUDA devices, here are 1"]),
        ((1, 1), 3, 4, 4, 0, [0, 101, 102, 103], ["another number of", "1 CUDA devices, here are 4"]),
        ((2, 2), 2, 3, 3, 0, [0, 1, 102], ["another number of", "2 CUDA devices, here are 3"]),
        ((4, 4), 1, 4, 0, 1, [], ["4 CUDA devices, here are 0"]),
    ],
)  # fmt: skip
def test_sft_goes_on_with_the_random_states_of_another_number_of_processes(
    wrote: tuple[int, int], rank: int, count: int, here: int, of: int, cards: list[int], told: list[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write_states(tmp_path, monkeypatch, *wrote)
    machine = Cards(monkeypatch, here, current=rank)
    found = checkpoint.load_random_states(tmp_path, rank, count)
    assert machine.numbers == cards
    assert len(found) == len(told)
    assert all(part in text for part, text in zip(told, found, strict=True))
    restored = drawn()
    torch.manual_seed(of), random.seed(of), numpy.random.seed(of)
    assert restored == drawn()


def test_a_checkpoint_without_random_states_is_told(tmp_path: Path) -> None:
    assert checkpoint.load_random_states(tmp_path, 0, 1) == ["holds no random states"]
