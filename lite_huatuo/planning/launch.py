"""Starting the processes of `launch.processes` through accelerate, and what accelerate needs to know of a recipe."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lite_huatuo.errors import BackendError, LiteHuatuoError
from lite_huatuo.processes import slurm_variables
from lite_huatuo.recipe import Recipe


def needed(recipe: Recipe, environ: Mapping[str, str]) -> bool:
    """Tell whether the recipe's processes are still to be started: not where a launcher has started this one."""
    return recipe.launch.processes > 1 and "WORLD_SIZE" not in environ and not slurm_variables(environ)


def check(recipe: Recipe, count: int) -> None:
    """Raise BackendError for what `count` processes cannot do together."""
    base, ppo, strategy = recipe.base, recipe.ppo, recipe.launch.strategy
    if count == 1:
        return
    if ppo.rollout.engine == "vllm":
        raise BackendError(f"ppo.rollout.engine: vllm works in one process, not {count}; set auto")
    if ppo.rollout.episodes < count:
        raise BackendError(
            f"ppo.rollout.episodes: {ppo.rollout.episodes} for {count} processes; give each one at least"
        )
    if strategy == "fsdp2":
        for key, bad, good in (
            ("base.backend", base.backend == "unsloth", "plain"),
            ("base.keep_dequantised", base.keep_dequantised, "false"),
            ("base.attention", base.attention != "sdpa", "sdpa"),
            ("ppo.critic.trunk", ppo.critic.trunk != "own", "own"),
        ):
            if bad:
                raise BackendError(f"{key}: does not go with launch.strategy fsdp2; set {good}")


def accelerate_config(processes: int, *, machines: int = 1, address: str | None = None) -> dict[str, Any]:
    """Return the configuration of `accelerate launch` for `processes` in all on `machines`, the first at `address`.

    The strategy is not in it: this project shares the work out and shards the base itself.
    """
    if machines > 1 and address is None:
        raise BackendError(f"{machines} machines: the address of the first is missing; give it with --address")
    if processes % machines:
        raise BackendError(f"{processes} processes do not divide among {machines} machines; give a multiple")
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",
        "num_processes": processes,
        "num_machines": machines,
        "machine_rank": 0,
        "mixed_precision": "no",
        "use_cpu": False,
        "main_process_port": 0 if machines == 1 else 29500,
    }
    if machines > 1:
        config.update(main_process_ip=address, rdzv_backend="static", same_network=True)
    return config


def start(processes: int, arguments: Sequence[str]) -> int:
    """Run `lite-huatuo <arguments>` in several processes on this machine; return the exit code.

    When one ends with an error or is killed, the others are stopped.
    """
    import torch.distributed.run  # noqa: F401  (makes the loggers below)
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # pages of traces; we say what happened
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "accelerate.yaml"
        config.write_text(yaml.safe_dump(accelerate_config(processes)))
        parsed = launch_command_parser().parse_args(
            ["--config_file", str(config), "--module", "lite_huatuo", *arguments]
        )
        try:
            launch_command(parsed)
        except ChildFailedError as error:
            for rank, failure in error.failures.items():
                if failure.exitcode < 0:  # by a signal: it could say nothing itself
                    raise LiteHuatuoError(_killed(rank, processes, -failure.exitcode)) from None
            return error.get_first_failure()[1].exitcode
        except SignalException as error:
            return 128 + int(error.sigval)
    return 0


def _killed(rank: int, processes: int, number: int) -> str:
    why = " (out of memory?)" if number == signal.SIGKILL else ""
    return (
        f"process {rank} of {processes} was ended by {signal.Signals(number).name}{why}. All processes were stopped; "
        "the last checkpoint is whole, go on with --resume"
    )
