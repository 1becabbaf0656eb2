"""Checkpoints of `verifier train`, in `.training-NAME` beside its result: adapter, head, optimizer and step."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lite_huatuo import jsonl
from lite_huatuo.errors import CheckpointError
from lite_huatuo.training import checkpoint
from lite_huatuo.training.progress import Progress
from lite_huatuo.verifier.adapter import HEAD, AdapterVerifier

EVERY = 100  # optimizer steps
RESULT = "result"


@dataclass(frozen=True)
class Checkpoints:
    """Where they are, and the data and settings (JSON) that must be the same to go on."""

    folder: Path
    identity: dict[str, Any]

    def load(self, verifier: AdapterVerifier, optimizer: torch.optim.Optimizer, progress: Progress) -> int:
        """Restore the newest sound one and return its step; 0 where there is none.

        CheckpointError where it belongs to another training.
        """
        path, told = checkpoint.latest(self.folder, "step-*")
        for text in told:
            progress.note(f"warning: {text}")
        if path is None:
            return 0
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        wanted, kept = json.loads(json.dumps(self.identity)), state["identity"]
        if differing := [name for name in sorted({*wanted, *kept}) if wanted.get(name) != kept.get(name)]:
            raise CheckpointError(
                f"{self.folder}: was begun with other {', '.join(differing)}; give the same to go on, or delete that "
                "folder to begin again"
            )
        verifier.shared.load(verifier.adapter, path)
        if verifier.head is not None:
            verifier.head.load(path / HEAD)
        checkpoint.unpack_optimizers({"all": optimizer}, load_file(path / "optimizer.safetensors"), state["optimizer"])
        progress.note(f"goes on after step {state['step']}")
        return int(state["step"])

    def save(self, verifier: AdapterVerifier, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Write one, whole or not at all; older ones go."""
        tensors, scalars = checkpoint.pack_optimizers({"all": optimizer})  # first: it may refuse
        older, path = list(self.folder.glob("step-*")), self.folder / f"step-{step:06d}"
        temporary = checkpoint.fresh(path)
        verifier.save(temporary)
        save_file(tensors, temporary / "optimizer.safetensors")
        state = {"step": step, "optimizer": scalars, "identity": self.identity}
        jsonl.write_text(temporary / "state.json", json.dumps(state) + "\n")
        checkpoint.mark(temporary, None, step)
        checkpoint.put(temporary, path)
        for old in older:
            shutil.rmtree(old)
