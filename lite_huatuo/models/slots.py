"""A key-value cache with a fixed number of slots: a finished row leaves at once and a waiting query takes its place.

The active rows are always slots 0 … n - 1: the row that leaves is overwritten by the last one, so that a decoding step
reads a view and copies nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache


class Slots(Cache):
    """A cache of transformers for one decoder. Per layer keys and values are (slots, kv heads, room, D).

    `lengths[s]` is the number of tokens in slot s; `len(lengths)` rows are active. `fill` or `step` says what the next
    forward pass brings. It has none of transformers' cache layers: a forward pass calls only the methods below, and
    what releases add to Cache for kinds of layers finds none.
    """

    def __init__(self, slots: int, room: int) -> None:
        super().__init__(layers=[])
        self.slots, self.room = slots, room
        self.lengths: list[int] = []
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._packed: list[int] | None = None
        self._rows = self._places = torch.empty(0)

    def fill(self, lengths: Sequence[int]) -> None:
        """Announce a packed forward pass of new rows with these lengths; they take the next free slots."""
        assert len(self.lengths) + len(lengths) <= self.slots, "more rows than slots"
        self._packed = list(lengths)
        self.lengths += lengths
        self._grow()

    def step(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Announce a pass of one new token for every active row.

        Returns its position ids (n, 1) and the attention mask (n, 1, 1, S), S being the longest row's new length.
        """
        self._packed = None
        self._places = torch.tensor(self.lengths, device=device)
        self._rows = torch.arange(len(self.lengths), device=device)
        self.lengths = [length + 1 for length in self.lengths]
        self._grow()
        seen = torch.arange(max(self.lengths), device=device)
        return self._places[:, None], (seen <= self._places[:, None])[:, None, None]

    def leave(self, slot: int) -> int:
        """Free a slot; return the slot of the row that moved into it (itself where it was the last)."""
        last = len(self.lengths) - 1
        if slot != last:
            length = self.lengths[last]
            for store in (*self._keys, *self._values):
                store[slot, :, :length] = store[last, :, :length]
            self.lengths[slot] = length
        self.lengths.pop()
        return last

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values (B, kv heads, T, D); return those to attend to.

        What else a release of transformers passes (its newest: the attention's own keywords) is not needed.
        """
        key, value = key_states, value_states
        if layer_idx == len(self._keys):
            shape = (self.slots, key.shape[1], self.room, key.shape[3])
            self._keys.append(key.new_zeros(shape))
            self._values.append(value.new_zeros(shape))
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        if self._packed is not None:
            first = len(self.lengths) - len(self._packed)
            for store, new in ((keys, key), (values, value)):
                for slot, piece in enumerate(new[0].split(self._packed, dim=1), start=first):
                    store[slot, :, : piece.shape[1]] = piece
            return key, value
        count, longest = len(self.lengths), max(self.lengths)
        keys[self._rows, :, self._places] = key[:, :, 0]
        values[self._rows, :, self._places] = value[:, :, 0]
        return keys[:count, :, :longest], values[:count, :, :longest]

    def get_query_offset(self, layer_idx: int | None = None) -> int:
        """Return 0: asked for new rows only, which begin at their first token."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int | None = None) -> tuple[int, int]:
        """Return (length, offset) of the keys; asked for new rows only."""
        return query_length, 0

    def get_seq_length(self, layer_idx: int | None = None) -> int:
        """Return the longest row's length."""
        return max(self.lengths, default=0)

    def _grow(self) -> None:
        """Make room by halves, so that the cache is never much larger than what it holds."""
        needed = max(self.lengths)
        if needed <= self.room:
            return
        self.room = max(needed, self.room * 3 // 2)
        for stores in (self._keys, self._values):
            for layer, old in enumerate(stores):
                new = old.new_zeros((*old.shape[:2], self.room, old.shape[3]))
                new[:, :, : old.shape[2]] = old
                stores[layer] = new
