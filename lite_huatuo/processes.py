"""The processes that train together, one a card: who I am, what my part is, and what we tell one another.

Every process computes the same plan from the same seeds and does its part of the work; the main process (rank 0) writes
the run folder and speaks to endpoints. `ALONE` is one process without a launcher: every method then costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from lite_huatuo.errors import BackendError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """One process among `count`; `rank` 0 is the main one. `group` carries Python objects (gloo); tensors go another
    way, from card to card."""

    rank: int = 0
    count: int = 1
    group: Any = None

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks for all."""
        return self.rank == 0

    def part(self, items: Sequence[T]) -> list[T]:
        """Return this process's share of items that all processes hold: every `count`-th."""
        return list(items[self.rank :: self.count])

    def merge(self, mine: Sequence[T]) -> list[T]:
        """Return all items in their first order, from the parts of all processes."""
        return interleave(self.gather(list(mine)))

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank. Values must be picklable; they come from our own processes."""
        if self.count == 1:
            return [value]
        from torch import distributed

        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value, group=self.group)
        return found

    def once(self, work: Callable[[], T]) -> T:
        """Have the main process do some work, and return its result everywhere; where it fails, all end."""
        if self.count == 1:
            return work()
        from torch import distributed

        box: list[Any] = [False, None]
        try:
            if self.main:
                box = [True, work()]
        finally:
            distributed.broadcast_object_list(box, src=0, group=self.group)
        if not box[0]:
            raise SystemExit(1)  # the main process tells why
        return box[1]

    def apart(self) -> Processes:
        """Return the same processes with a channel of their own, for a thread; all must ask in the same order."""
        if self.count == 1:
            return self
        from torch import distributed

        return Processes(self.rank, self.count, distributed.new_group(backend="gloo"))

    @contextmanager
    def held_together(self) -> Iterator[None]:
        """Say in a line, not in a page, when a process that this one waits for has ended. BackendError."""
        try:
            yield
        except RuntimeError as error:
            from torch import distributed

            if self.count == 1 or not (isinstance(error, distributed.DistError) or "gloo" in str(error)):
                raise
            raise BackendError(
                f"process {self.rank} of {self.count}: another process has ended; see what it said. What was saved is "
                "whole: go on with --resume"
            ) from None

    def wait(self) -> None:
        """Return when all processes have come here: before one reads what another wrote."""
        self.gather(None)

    def add(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return the sums of the processes' figures, which have the same names everywhere."""
        found = self.gather(dict(figures))
        return {name: sum(each[name] for each in found) for name in found[0]}

    def most(self, number: int) -> int:
        """Return the largest of the processes' numbers."""
        return max(self.gather(number))

    def add_gradients(self, parameters: Iterable[Any], *, scale: float = 1.0) -> None:
        """Replace the gradients by their sums over the processes, times `scale`: one exchange for all of them."""
        if self.count == 1:
            return
        import torch
        from torch import distributed

        held = list(parameters)
        for parameter in held:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.flatten() for parameter in held])
        distributed.all_reduce(flat)
        flat.mul_(scale)
        for parameter, piece in zip(held, flat.split([p.numel() for p in held]), strict=True):
            parameter.grad.copy_(piece.view_as(parameter))

    def equalise(self, tensors: Iterable[Any]) -> None:
        """Overwrite tensors by those of the main process: all begin with the same."""
        if self.count == 1:
            return
        import torch
        from torch import distributed

        with torch.no_grad():
            for tensor in tensors:
                distributed.broadcast(tensor.data, src=0)


ALONE = Processes()


def interleave(parts: Sequence[Sequence[T]]) -> list[T]:
    """Undo `Processes.part`: item i is that of part i % n at place i // n."""
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(len(part) for part in parts))]


def join() -> Processes:
    """Join the processes that a launcher (accelerate, torchrun, srun) started; `ALONE` where there is none.

    Each process takes the card of its local rank. BackendError where the machine has fewer cards than processes.
    """
    slurm = slurm_variables(os.environ)
    os.environ.update({name: value for name, value in slurm.items() if name not in os.environ})
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    import torch
    from accelerate import PartialState
    from torch import distributed

    cuda, local = torch.cuda.is_available(), int(os.environ.get("LOCAL_RANK", "0"))
    if cuda and torch.cuda.device_count() <= local:
        raise BackendError(
            f"launch.processes: process {local} of this machine has no card of its own ({torch.cuda.device_count()} "
            "CUDA devices); start as many processes as there are cards"
        )
    PartialState(cpu=not cuda)  # sets the card and begins torch.distributed: NCCL, on CPUs gloo
    group = distributed.new_group(backend="gloo")
    return Processes(distributed.get_rank(), distributed.get_world_size(), group)


def slurm_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return torch's variables for a process that `srun` started as one of several; {} for any other.

    SLURM_STEP_NUM_TASKS is there in a step's processes only: a batch script with --ntasks is one process.
    """
    count = int(environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if count == 1 or "SLURM_PROCID" not in environ:
        return {}
    return {
        "WORLD_SIZE": str(count),
        "RANK": environ["SLURM_PROCID"],
        "LOCAL_RANK": environ.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": first_host(environ.get("SLURM_STEP_NODELIST", "127.0.0.1")),
        "MASTER_PORT": str(20_000 + int(environ.get("SLURM_JOB_ID", "0")) % 10_000),
    }


def first_host(nodes: str) -> str:
    """Return the first host of SLURM's list, such as gpu[03-05,9],cpu1: gpu03."""
    head, bracket, rest = nodes.partition("[")
    if not bracket or "," in head:
        return nodes.partition(",")[0]
    numbers, _, tail = rest.partition("]")
    return head + numbers.replace(",", "-").partition("-")[0] + tail.partition(",")[0]
