"""A base sharded over two processes, as srun would start them: half of each layer each, and the same numbers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def test_a_sharded_base_says_what_a_whole_one_says(toy: dict[str, str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.1", "MASTER_PORT": port}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.stage.sharded_worker", toy["model"]],
            env={**os.environ, **slurm, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank, worker in enumerate(workers):
        out, err = worker.communicate(timeout=120)
        assert f"process {rank}: same" in out, err[-3000:]
