"""One frozen base, several adapters, and the only place where the active adapter is switched.

    with shared.using("actor"):
        states = shared.states(rows)
        ...
        loss.backward()          # inside: outside, gradients would be wrong without a word

Why not peft's `set_adapter`: it sets requires_grad=False on every other adapter, and costs 50 times a switch of ours.
We set the private names it sets, on the layers captured at creation; setup.cfg bounds peft and tests pin the names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lite_huatuo.errors import BackendError, CheckpointError
from lite_huatuo.models import adapter_config, backends, packing, sharding
from lite_huatuo.models.backends import REENTRANT, LoadedBase
from lite_huatuo.models.slots import Slots
from lite_huatuo.processes import Processes

BASE = "base"  # the name under which `using` switches all adapters off


class SharedBase:
    """A frozen base with named LoRA adapters. `trainable` adapters have requires_grad=True for good, others never."""

    def __init__(self, model: PeftModel, loaded: LoadedBase, trainable: tuple[str, ...]) -> None:
        self.peft = model
        self.tokenizer = loaded.tokenizer
        self.backend = loaded.backend
        self.packs = loaded.packs
        causal: Any = model.base_model.model
        self.causal = causal
        self.sharded: Processes | None = loaded.sharded
        self._gathered = False
        if self.sharded is not None:
            if not self.packs:  # transformers' own `generate` cannot keep step with other processes
                raise BackendError(
                    f"launch.strategy: fsdp2 needs full attention in every layer, which {loaded.folder} lacks; set ddp"
                )
            sharding.shard(causal, backends.own_device())
        self.body = getattr(causal, causal.base_model_prefix)
        self.lm_head = causal.get_output_embeddings()
        # transformers 5.24 calls past_key_values cache, and warns of the old name
        self._cache = "cache" if "cache" in signature(self.body.forward).parameters else "past_key_values"
        self.device = self.body.get_input_embeddings().weight.device
        self.hidden_size: int = causal.config.get_text_config().hidden_size
        self.active = BASE
        self._checkpointed: list[torch.nn.Module] = []  # those that recompute their activations
        # float32 rounds alike, near enough, whether tokens come one at a time or all at once
        self.exact = self.packs and self.body.get_input_embeddings().weight.dtype == torch.float32
        self._layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
        self._parameters = {name: adapter_config.parameters(model, name) for name in model.peft_config}
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
            adapter_config.check(folder, loaded.folder)
            model.load_adapter(folder, adapter_name=name, is_trainable=False)
        return cls(model, loaded, (adapter,))

    @classmethod
    def from_adapters(cls, loaded: LoadedBase, folders: dict[str, Path], trainable: tuple[str, ...]) -> SharedBase:
        """Attach saved adapters: {name: folder}; the same folder may serve several names."""
        model = None
        for name, folder in folders.items():
            adapter_config.check(folder, loaded.folder)
            try:
                if model is None:
                    model = PeftModel.from_pretrained(
                        loaded.model, folder, adapter_name=name, is_trainable=name in trainable
                    )
                else:
                    model.load_adapter(folder, adapter_name=name, is_trainable=name in trainable)
            except (RuntimeError, ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
                reason = " ".join(str(error).split())[:300]
                raise CheckpointError(
                    f"{folder}: this adapter does not fit the base {loaded.folder}: {reason}"
                ) from None
        assert model is not None, "at least one adapter"
        made = cls(model, loaded, trainable)
        for name, folder in folders.items():
            made._check_whole(name, folder)
        return made

    @contextlib.contextmanager
    def using(self, name: str, *, learn: bool = False) -> Iterator[None]:
        """Make one adapter (or `BASE`: none) the active one; `learn` puts the network in training mode for backward.

        Training mode matters for gradient checkpointing only: there is no dropout.
        """
        before, mode = self.active, self.peft.training
        self._switch(name)
        self.peft.train(learn)
        if learn:  # unsloth's `generate` switches checkpointing off, and on again only for a network in training mode
            for module in self._checkpointed:
                module.gradient_checkpointing = True  # type: ignore[assignment]
        try:
            yield
        finally:
            self._switch(before)
            self.peft.train(mode)

    @contextlib.contextmanager
    def writing(self, rows: int, tokens: int) -> Iterator[None]:
        """Write replies while the block runs: `rows` at once, each of at most `tokens` tokens with its query.

        A sharded base is gathered once for the whole block where every process has the room; a step then moves nothing
        between the cards, and no process waits for another.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(packing.without_cudnn())
            if self.sharded is not None and sharding.all_have_room(self.causal, self.sharded, rows, tokens):
                stack.enter_context(sharding.gathered(self.body.layers))
                stack.callback(setattr, self, "_gathered", False)
                self._gathered = True
            yield

    def states(self, rows: Sequence[Sequence[int]], slots: Slots | None = None) -> Tensor:
        """Return the body's last hidden states (S, H) of the S tokens of some rows of token ids, end to end.

        The active adapter works; lm_head is not run. Only real tokens go through the network where the base `packs`,
        else rows are padded and the padding is left out of what is returned. `slots` keeps keys and values for
        `next_states`; it needs a base that packs.
        """
        lengths = [len(row) for row in rows]
        if self.packs:
            ids, positions = self._packed(rows)
            output = self.body(
                input_ids=ids,
                position_ids=positions,
                packed_lengths=lengths,
                use_cache=slots is not None,
                **{self._cache: slots},
            )
            hidden = output.last_hidden_state[0]
        else:
            assert slots is None, "a cache of slots needs packed rows"
            ids, mask = self._padded(rows)
            hidden = self.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[mask.bool()]
        return self._watched(hidden)

    def next_states(self, ids: Tensor, slots: Slots) -> Tensor:
        """Return the last hidden states (n, H) of one more token (n, 1) for every active row of the slots."""
        positions, mask = slots.step(self.device)
        output = self.body(
            input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=True, **{self._cache: slots}
        )
        return output.last_hidden_state[:, 0]

    def states_and_trunk(self, rows: Sequence[Sequence[int]], layers: int) -> tuple[Tensor, Tensor]:
        """Return `states`, and what goes into the top `layers` layers, both (S, H)."""
        seen: list[Tensor] = []
        hook = self.body.layers[-layers].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try:
            states = self.states(rows)
        finally:
            hook.remove()
        return states, seen[0][0]

    def states_from_trunk(self, trunk: Tensor, rows: Sequence[Sequence[int]], layers: int) -> Tensor:
        """Return the last hidden states (S, H) from what goes into the top `layers` layers (S, H)."""
        _, positions = self._packed(rows)
        hidden = trunk[None]
        embedded = self.body.rotary_emb(hidden, position_ids=positions)
        for layer in self.body.layers[-layers:]:
            hidden = layer(
                hidden,
                attention_mask=None,
                position_ids=positions,
                position_embeddings=embedded,
                packed_lengths=[len(row) for row in rows],
            )
        return self._watched(self.body.norm(hidden)[0])

    def goes_on(self, mine: bool) -> bool:
        """Return whether a loop of passes goes on: as long as this process has work or, where a pass needs all of
        them, any process has; then `idle` where there is nothing to do."""
        return mine if self.sharded is None or self._gathered else bool(self.sharded.most(int(mine)))

    def in_step(self, groups: Sequence[list[int]]) -> list[list[int] | None]:
        """Return microbatches with as many None at their end as other processes have more, where the base is sharded:
        for each, `idle` as often as the loop would have made a pass."""
        missing = 0 if self.sharded is None else self.sharded.most(len(groups)) - len(groups)
        return [*groups, *[None] * missing]

    def idle(self, *, learn: bool = False) -> None:
        """Make a pass over one token, and with `learn` a backward that changes no gradient, for the others' sake."""
        states = self.states([[self.tokenizer.pad_id]])
        if learn:
            (states.sum() * 0.0).backward()

    def _packed(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return token ids and position ids (1, S) of rows end to end."""
        ids = torch.tensor([[token for row in rows for token in row]], device=self.device)
        positions = torch.cat([torch.arange(len(row), device=self.device) for row in rows])
        return ids, positions[None]

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return token ids and attention mask (M, T) of rows padded on the right."""
        width, pad = max(len(row) for row in rows), self.tokenizer.pad_id
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.device)
        return ids, mask

    def _watched(self, hidden: Tensor) -> Tensor:
        """Refuse a backward under another adapter than the one that was active in forward."""
        if hidden.requires_grad:
            adapter = self.active
            hidden.register_hook(lambda gradient: self._check_backward(adapter, gradient))
        return hidden

    def parameters(self, name: str, *, top: int | None = None) -> dict[str, torch.nn.Parameter]:
        """Return the adapter's parameters by their name in the network: all, or those of the `top` highest layers."""
        if top is None:
            return self._parameters[name]
        first = len(self.body.layers) - top
        layers = {f".layers.{layer}." for layer in range(first, len(self.body.layers))}
        return {key: p for key, p in self._parameters[name].items() if any(layer in key for layer in layers)}

    def enable_checkpointing(self) -> None:
        """Recompute activations in backward; takes effect inside `using(..., learn=True)`."""
        self.causal.gradient_checkpointing_enable({"use_reentrant": REENTRANT[self.backend]})
        if REENTRANT[self.backend]:
            self.causal.enable_input_require_grads()
        self._checkpointed = [m for m in self.causal.modules() if getattr(m, "gradient_checkpointing", False)]

    @property
    def recomputed_layers(self) -> int:
        """Decoder layers whose activations a backward would now compute again (gradient checkpointing)."""
        return sum(layer.training and getattr(layer, "gradient_checkpointing", False) for layer in self.body.layers)

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
        wanted = {adapter_config.saved_name(key, name): parameter for key, parameter in self._parameters[name].items()}
        if set(state) != set(wanted):
            raise CheckpointError(f"{folder}: holds another adapter than {name} (its tensors have other names)")
        with torch.no_grad():
            for key, parameter in wanted.items():
                parameter.copy_(state[key])

    def _check_whole(self, name: str, folder: Path) -> None:
        """Refuse an adapter with other tensors than the base has places for: peft would leave them out, or at zero."""
        with safe_open(folder / adapter_config.WEIGHTS, "pt") as file:
            stored = set(file.keys())
        wanted = {adapter_config.saved_name(key, name) for key in self._parameters[name]}
        if stored != wanted:
            odd = sorted(stored ^ wanted)[0]
            what = "has no place here" if odd in stored else "is missing from it"
            raise CheckpointError(f"{folder}: this adapter was made for another base: {odd} {what}")

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
        """Refuse networks whose logits are more than a product of the hidden states: scaled, capped or adapted ones."""
        if not isinstance(self.lm_head, torch.nn.Linear) or self.lm_head.bias is not None:
            raise BackendError("lm_head has a bias or an adapter; leave it out of adapter.targets")
        row = [self.tokenizer.end_id, self.tokenizer.pad_id]
        hidden = self.states([row])
        ids = torch.tensor([row], device=self.device)
        logits = self.causal(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
        if not torch.allclose(self.lm_head(hidden).float(), logits.float(), rtol=1e-2, atol=1e-2):
            raise BackendError(
                f"{self.causal.config.model_type}: this architecture changes its logits after lm_head "
                "(scaling or soft-capping), which PPO here does not know"
            )


def describe(shared: SharedBase) -> dict[str, Any]:
    """Return facts for logs: adapter parameters (one adapter), decoder layers, backend, device."""
    name = next(iter(shared.peft.peft_config))
    return {
        "adapter_parameters": sum(p.numel() for p in shared.parameters(name).values()),
        "layers": len(shared.body.layers),
        "backend": shared.backend,
        "device": str(shared.device),
    }
