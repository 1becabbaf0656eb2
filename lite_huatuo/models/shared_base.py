"""One frozen base, several adapters, and the only place where the active adapter is switched.

    with shared.using("actor"):
        hidden = shared.hidden(input_ids, attention_mask)
        ...
        loss.backward()          # inside: outside, gradients would be wrong without a word

Why not peft's `set_adapter`: it sets requires_grad=False on every other adapter, and costs 50 times a switch of ours.
We set the private names it sets, on the layers captured at creation; setup.cfg bounds peft and tests pin the names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from lite_huatuo.errors import BackendError, CheckpointError
from lite_huatuo.models.backends import REENTRANT, LoadedBase

BASE = "base"  # the name under which `using` switches all adapters off


class SharedBase:
    """A frozen base with named LoRA adapters. `trainable` adapters have requires_grad=True for good, others never."""

    def __init__(self, model: PeftModel, loaded: LoadedBase, trainable: tuple[str, ...]) -> None:
        self.peft = model
        self.tokenizer = loaded.tokenizer
        self.backend = loaded.backend
        causal: Any = model.base_model.model
        self.causal = causal
        self.body = getattr(causal, causal.base_model_prefix)
        self.lm_head = causal.get_output_embeddings()
        self.device = self.body.get_input_embeddings().weight.device
        self.hidden_size: int = causal.config.get_text_config().hidden_size
        self.active = BASE
        self._layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
        self._parameters = {name: _capture(model, name) for name in model.peft_config}
        for name, parameters in self._parameters.items():
            for parameter in parameters.values():
                parameter.requires_grad_(name in trainable)
        self._switch(BASE)
        self._check_head()

    @classmethod
    def fresh(
        cls,
        loaded: LoadedBase,
        adapter: str,
        *,
        rank: int,
        alpha: int,
        targets: str | list[str],
        rslora: bool = False,
        dora: bool = False,
        frozen: Mapping[str, Path] | None = None,
    ) -> SharedBase:
        """Attach one new trainable adapter that changes nothing yet (B = 0), and saved ones {name: folder}, frozen."""
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules=targets,
            use_rslora=rslora,
            use_dora=dora,
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
        )
        try:
            model = get_peft_model(loaded.model, config, adapter_name=adapter)
        except ValueError as error:
            raise BackendError(f"adapter.targets: {targets}: {error}") from None
        for name, folder in (frozen or {}).items():
            model.load_adapter(folder, adapter_name=name, is_trainable=False)
        return cls(model, loaded, (adapter,))

    @classmethod
    def from_adapters(cls, loaded: LoadedBase, folders: dict[str, Path], trainable: tuple[str, ...]) -> SharedBase:
        """Attach saved adapters: {name: folder}; the same folder may serve several names."""
        model = None
        for name, folder in folders.items():
            if not (folder / "adapter_model.safetensors").is_file():
                raise CheckpointError(f"{folder}: no adapter here (adapter_model.safetensors is missing)")
            if model is None:
                model = PeftModel.from_pretrained(
                    loaded.model, folder, adapter_name=name, is_trainable=name in trainable
                )
            else:
                model.load_adapter(folder, adapter_name=name, is_trainable=name in trainable)
        assert model is not None, "at least one adapter"
        return cls(model, loaded, trainable)

    @contextlib.contextmanager
    def using(self, name: str, *, learn: bool = False) -> Iterator[None]:
        """Make one adapter (or `BASE`: none) the active one; `learn` puts the network in training mode for backward.

        Training mode matters for gradient checkpointing only: there is no dropout.
        """
        before, mode = self.active, self.peft.training
        self._switch(name)
        self.peft.train(learn)
        try:
            yield
        finally:
            self._switch(before)
            self.peft.train(mode)

    def activate(self, name: str) -> None:
        """Make one adapter active for good: for a process that only ever uses one, such as chat."""
        self._switch(name)

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the body's last hidden states (B, T, H) under the active adapter; lm_head is not run.

        input_ids and attention_mask are (B, T), padded on the right.
        """
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        if hidden.requires_grad:
            adapter = self.active
            hidden.register_hook(lambda gradient: self._check_backward(adapter, gradient))
        return hidden

    def parameters(self, name: str) -> dict[str, torch.nn.Parameter]:
        """Return the adapter's parameters by their name in the network."""
        return self._parameters[name]

    def enable_checkpointing(self) -> None:
        """Recompute activations in backward; takes effect inside `using(..., learn=True)`."""
        self.causal.gradient_checkpointing_enable({"use_reentrant": REENTRANT[self.backend]})
        if REENTRANT[self.backend]:
            self.causal.enable_input_require_grads()

    def save(self, name: str, folder: Path) -> None:
        """Write one adapter into `folder` in plain peft form (safetensors); it loads with PeftModel.from_pretrained."""
        self.peft.save_pretrained(str(folder.parent), selected_adapters=[name], safe_serialization=True)
        written = folder.parent / name
        if written != folder:
            written.rename(folder)
        (folder.parent / "README.md").unlink(missing_ok=True)  # peft's empty model card

    def load(self, name: str, folder: Path) -> None:
        """Overwrite an attached adapter's parameters with saved ones, to the bit."""
        from safetensors.torch import load_file

        state = load_file(folder / "adapter_model.safetensors")
        wanted = {_saved_name(key, name): parameter for key, parameter in self._parameters[name].items()}
        if set(state) != set(wanted):
            raise CheckpointError(f"{folder}: holds another adapter than {name} (its tensors have other names)")
        with torch.no_grad():
            for key, parameter in wanted.items():
                parameter.copy_(state[key])

    def _switch(self, name: str) -> None:
        assert name == BASE or name in self.peft.peft_config, f"no adapter {name}"
        for layer in self._layers:
            layer._disable_adapters = name == BASE
            if name != BASE:
                layer._active_adapter = [name]
        self.active = name

    def _check_backward(self, adapter: str, gradient: Tensor) -> Tensor:
        if self.active != adapter:
            raise RuntimeError(
                f"backward of {adapter} while {self.active} is active; call it inside using({adapter!r})"
            )
        return gradient

    @torch.no_grad()
    def _check_head(self) -> None:
        """Refuse networks whose logits are more than lm_head(hidden): scaled or capped ones."""
        ids = torch.tensor([[self.tokenizer.end_id, self.tokenizer.pad_id]], device=self.device)
        hidden = self.hidden(ids, torch.ones_like(ids))
        logits = self.causal(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        if not torch.allclose(self.lm_head(hidden).float(), logits.float(), rtol=1e-2, atol=1e-2):
            raise BackendError(
                f"{self.causal.config.model_type}: this architecture changes its logits after lm_head "
                "(scaling or soft-capping), which PPO here does not know"
            )


def _capture(model: PeftModel, name: str) -> dict[str, torch.nn.Parameter]:
    """Return the parameters of one adapter: those with its name as a whole path element."""
    return {key: parameter for key, parameter in model.named_parameters() if f".{name}." in f"{key}."}


def _saved_name(key: str, adapter: str) -> str:
    """Return the name peft saves a parameter under: the adapter's name is left out."""
    return key.replace(f".{adapter}.", ".").removesuffix(f".{adapter}")


def describe(shared: SharedBase) -> dict[str, Any]:
    """Return counts for logs: adapter parameters (one adapter), backend, device."""
    name = next(iter(shared.peft.peft_config))
    return {
        "adapter_parameters": sum(p.numel() for p in shared.parameters(name).values()),
        "backend": shared.backend,
        "device": str(shared.device),
    }
