"""The critic's value head: one float32 Linear on the body's last hidden state."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lite_huatuo.errors import CheckpointError


class ValueHead(torch.nn.Module):
    """Maps hidden states (..., H) of any float type to values (...) in float32.

    It starts at zero, so that a fresh critic predicts 0 everywhere and its adapter is not moved by a random head.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(hidden_size, 1, dtype=torch.float32)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the values, shape hidden.shape[:-1]."""
        return self.linear(hidden.float()).squeeze(-1)

    def save(self, path: Path) -> None:
        """Write weight and bias as safetensors."""
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in self.linear.state_dict().items()}, path)

    def load(self, path: Path) -> None:
        """Read weight and bias; a missing or other-sized file is told."""
        try:
            self.linear.load_state_dict(load_file(path))
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{path}: not this critic's value head ({error})") from None
