"""From a recipe's `verifier` section, as plain values, to a verifier."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lite_huatuo.errors import BackendError
from lite_huatuo.processes import ALONE, Processes
from lite_huatuo.verifier.base import Verifier
from lite_huatuo.verifier.exact import ExactVerifier
from lite_huatuo.verifier.on_main import OnMain

ADAPTER = "verifier"  # the name of the judging adapter on a shared base


def make(section: Mapping[str, Any] | str, *, shared: Any = None, processes: Processes = ALONE) -> Verifier:
    """Return the verifier of a whole section (`VerifierSection.model_dump()`), or of a kind that needs no other key.

    `shared` is the base of an adapter verifier: a `SharedBase` that holds the section's adapter under `ADAPTER` (see
    `adapters`). Of several `processes` only the main one asks an endpoint.
    """
    values = _values(section)
    kind = values["kind"]
    if kind == "exact":
        return ExactVerifier()
    if kind == "api":
        from lite_huatuo.data import profile
        from lite_huatuo.verifier.api import ApiVerifier

        chosen = profile.load(values["profile"])

        def api() -> Verifier:
            return ApiVerifier(chosen, Path(values["store"]), budget=values["budget"], form=values["form"])

        return api() if processes.count == 1 else OnMain(api, f"api ({chosen.name})", processes)
    if kind == "classifier":
        from lite_huatuo.verifier.classifier import ClassifierVerifier

        keys = ("model", "revision", "quantization", "template", "label", "threshold")
        return ClassifierVerifier(**{key: values[key] for key in keys})
    if kind == "ensemble":
        from lite_huatuo.verifier.ensemble import EnsembleVerifier

        members = [make(member, shared=shared, processes=processes) for member in values["members"]]
        return EnsembleVerifier(
            members, mode=values["mode"], weights=values["weights"] or None, threshold=values["threshold"]
        )
    if shared is None:
        raise BackendError("verifier.kind: adapter judges on the student's own base, and none is loaded here")
    from lite_huatuo.verifier.adapter import AdapterVerifier

    folder = Path(os.path.expanduser(values["adapter"]))
    return AdapterVerifier.load(shared, ADAPTER, folder, threshold=values["threshold"])


def check(section: Mapping[str, Any] | str) -> None:
    """Raise where `make` would, as far as can be told without loading a model, opening a store or asking anyone."""
    values = _values(section)
    kind = values["kind"]
    if kind == "api":
        from lite_huatuo.data import profile
        from lite_huatuo.verifier.api import check_key

        check_key(profile.load(values["profile"]))
    elif kind == "classifier":
        from lite_huatuo.verifier.classifier import check_template

        check_template(values["template"])
        _check_folder("model", values["model"], "config.json")
    elif kind == "adapter":
        folder = Path(os.path.expanduser(values["adapter"]))
        if not (folder / "adapter_config.json").is_file():
            raise BackendError(f"verifier.adapter: {folder}: no adapter here; `lite-huatuo verifier train` writes one")
    for member in values.get("members", ()):
        check(member)


def adapter_folder(section: Mapping[str, Any]) -> Path | None:
    """Return the folder of the adapter that a section or one of its members judges with, None where there is none."""
    if section["kind"] == "adapter":
        return Path(os.path.expanduser(section["adapter"]))
    return _only({folder for member in section.get("members") or () if (folder := adapter_folder(member)) is not None})


def adapters(*sections: Mapping[str, Any]) -> dict[str, Path]:
    """Return {ADAPTER: folder} where one of the sections judges with an adapter, else {}: what the base must hold."""
    folder = _only({folder for section in sections if (folder := adapter_folder(section)) is not None})
    return {} if folder is None else {ADAPTER: folder}


def _only(folders: set[Path]) -> Path | None:
    if len(folders) > 1:
        raise BackendError(f"verifier.members: one adapter can judge, not {len(folders)}; leave one of them")
    return folders.pop() if folders else None


def _values(section: Mapping[str, Any] | str) -> Mapping[str, Any]:
    return {"kind": section} if isinstance(section, str) else section


def _check_folder(key: str, name: str, file: str) -> None:
    """Raise where a name that is written as a path (/…, ./…, ~…) is no folder with the file; Hub ids pass."""
    if name.startswith((os.sep, ".", "~")) and not (Path(os.path.expanduser(name)) / file).is_file():
        raise BackendError(f"verifier.{key}: {name}: no model here ({file} is missing)")
