"""Every error lite-huatuo raises on purpose. A message says what, where and what to do."""

from __future__ import annotations


class LiteHuatuoError(Exception):
    """A mistake of the user or of the outside world; the command line prints it in one line and exits 1."""


class RecipeError(LiteHuatuoError):
    """A recipe is unknown, unreadable or asks for something that does not exist."""


class RecordError(LiteHuatuoError):
    """A data file is missing, damaged or holds a row that cannot be used; the message names file and line."""


class ReplyError(LiteHuatuoError):
    """A model's reply cannot be read in the form that was asked for. `kind` is what it is counted by, where that has a
    name of its own: "finish reason length", "unknown mark <x>"."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class APIError(LiteHuatuoError):
    """A chat endpoint refused, failed for good, or ran out of budget."""


class BackendError(LiteHuatuoError):
    """A base model, tokenizer, adapter or device cannot be used."""


class CheckpointError(LiteHuatuoError):
    """A run folder or checkpoint is missing, damaged, or belongs to another recipe."""


class WatchStop(LiteHuatuoError):
    """A PPO run was stopped because its policy went astray; the message says by which sign and how to go on."""


class ExportError(LiteHuatuoError):
    """An exported model could not be written or did not equal the model it was made from."""
