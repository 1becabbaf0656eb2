"""The base of a run: what the run began with is what it goes on with, is asked with and is exported onto.

The first stage that loads the base keeps in <run>/base.json what it was: the commit of one from the Hub, the name of a
dequantised GGUF file (which holds its digest), a digest of samples of the weights of one in a folder; and the type in
which this machine computed with it, which training goes on with. Others may ask the run in a type of their own.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lite_huatuo.models import backends, gguf
from lite_huatuo.models.backends import LoadedBase
from lite_huatuo.run_dir import RunDir

FACTS, DTYPE = "base.json", "compute_dtype"


def section(run: RunDir, base: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's base section with the commit that the run began with: a branch moves on."""
    commit = run.facts(FACTS).get("commit")
    return base if commit is None else {**base, "revision": commit}


def as_trained(run: RunDir, base: dict[str, Any]) -> dict[str, Any]:
    """Return `section` with the type that the run was trained in, where "auto" may be another one here."""
    return {**section(run, base), DTYPE: run.facts(FACTS).get(DTYPE, base[DTYPE])}


def load(run: RunDir, *, first: bool = False, **arguments: Any) -> LoadedBase:
    """Load the run's base; CheckpointError where it is another one by now. `first`: keep what it is, if nobody has.

    The arguments are those of `backends.load`.
    """
    backends.release()
    if first and backends.in_memory():  # a training stage begins with memory of its own
        run.event("base still in memory", networks=backends.in_memory())
    loaded = backends.load(**section(run, arguments))
    kept = run.facts(FACTS)
    if not first:
        _compare(run, of(loaded))
    elif kept and DTYPE not in kept:  # of an earlier version
        run.remember(FACTS, of(loaded))
    else:
        dtype = str(backends.torch_dtype(arguments.get(DTYPE, "auto"))).removeprefix("torch.")
        run.remember(FACTS, {**of(loaded), DTYPE: dtype})
    return loaded


def of(loaded: LoadedBase) -> dict[str, str]:
    """Return the identity of a loaded base."""
    return identity(loaded.folder, getattr(loaded.model.config, "_commit_hash", None))


def check(run: RunDir, base: dict[str, Any]) -> None:
    """Hold a base in a folder against the run's without loading it. One from the Hub is asked for by its commit."""
    folder = gguf.resolve(base["model"], base.get("fallback"))
    if Path(folder).is_dir():
        _compare(run, identity(folder))


def identity(folder: str, commit: str | None = None) -> dict[str, str]:
    """Return what tells one base from another; `folder` and `commit` are those of a loaded one."""
    if not Path(folder).is_dir():
        return {"commit": commit} if commit else {}
    if Path(folder).parent == gguf.cache_dir() / "gguf":
        return {"gguf": Path(folder).name}
    return {"weights": _samples(Path(folder))}


def _compare(run: RunDir, found: dict[str, str]) -> None:
    """Hold an identity against the run's, whatever type it is computed in."""
    run.compare(FACTS, {**{name: value for name, value in run.facts(FACTS).items() if name == DTYPE}, **found})


def _samples(folder: Path) -> str:
    """Return a digest over three rows of every tensor, however they are spread over files. Takes milliseconds."""
    import torch
    from safetensors import safe_open

    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                shape, count = part.get_shape(), (part.get_shape() or [1])[0]
                rows = [part[at : at + 1] for at in (0, count // 2, count - 1)] if count and shape else []
                data = [row.contiguous().view(torch.uint8).numpy().tobytes() for row in rows]
                found[name] = hashlib.sha256(b"".join([repr((shape, part.get_dtype())).encode(), *data])).hexdigest()
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:16]
