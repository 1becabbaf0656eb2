"""Facts about this machine: small functions that look and tell, and one that gathers them. Nothing is changed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

GIB = 2**30
OLDEST_PYTHON = (3, 10)
LIBRARIES = ("transformers", "trl", "peft", "accelerate", "datasets")
KEYS = ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY")
# The widest gap between two NF4 levels is 0.304 of a block's largest value, so rounding errs by 0.152 at most; double
# quantization adds a little.
NF4_LARGEST_ERROR = 0.16
# The limit and the use of a container's memory, cgroup v2 and v1: psutil tells those of the whole host.
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True)
class Torch:
    """`version` is None where torch cannot be imported, and `failure` says why; `cuda_build` is None in a CPU build."""

    version: str | None
    cuda_build: str | None
    cuda_available: bool
    failure: str | None


@dataclass(frozen=True)
class Gpu:
    """A CUDA device. `bf16`: computes bfloat16 natively (compute capability 8.0 or newer), not by emulation."""

    name: str
    memory_gib: float
    free_gib: float
    bf16: bool


@dataclass(frozen=True)
class Memory:
    """Main memory, or what a container may use of it."""

    total_gib: float
    available_gib: float


@dataclass(frozen=True)
class Machine:
    """Everything `inspect` found.

    `nf4_failures` maps a device to why 4-bit quantization fails there, None if it works. `keys` says which are set,
    never to what. `hub_failure` is None when the Hub answered or was not asked.
    """

    python: str
    python_ok: bool
    torch: Torch
    gpus: tuple[Gpu, ...]
    nvidia_driver: bool
    libraries: dict[str, str | None]
    bitsandbytes: str | None
    nf4_failures: dict[str, str | None]
    unsloth: str | None
    memory: Memory
    run_disk_gib: float
    model_cache: str
    model_disk_gib: float
    keys: dict[str, bool]
    hub_asked: bool
    hub_failure: str | None


def inspect(folder: Path, *, online: bool = False) -> Machine:
    """Gather all facts; `folder` is where runs will be written. The Hub is asked only if `online`."""
    state = torch_state()
    cards = gpus() if state.cuda_available else ()
    devices = [f"cuda:{index}" for index in range(len(cards))] or ["cpu"]
    cache = model_cache()
    return Machine(
        python=platform.python_version(),
        python_ok=python_ok(sys.version_info),
        torch=state,
        gpus=cards,
        nvidia_driver=nvidia_driver(),
        libraries={name: version(name) for name in LIBRARIES},
        bitsandbytes=version("bitsandbytes"),
        nf4_failures={device: state.failure or nf4_failure(device) for device in devices},
        unsloth=version("unsloth"),
        memory=memory(),
        run_disk_gib=free_disk_gib(folder),
        model_cache=str(cache),
        model_disk_gib=free_disk_gib(cache),
        keys=keys_present(),
        hub_asked=online,
        hub_failure=hub_failure() if online else None,
    )


def python_ok(version_info: Sequence[int | str]) -> bool:
    """Tell whether a Python version is new enough."""
    return tuple(version_info[:2]) >= OLDEST_PYTHON


def torch_state() -> Torch:
    """Import torch and tell what it is."""
    try:
        import torch
    except Exception as error:  # a broken install raises ImportError, OSError (a missing library), AttributeError …
        return Torch(None, None, False, _one_line(error))
    return Torch(str(torch.__version__), torch.version.cuda, torch.cuda.is_available(), None)


def gpus() -> tuple[Gpu, ...]:
    """Return the CUDA devices torch sees; torch must be importable."""
    import torch

    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        try:
            free = torch.cuda.mem_get_info(index)[0]
        except RuntimeError:  # so full that not even a context can be made
            free = 0
        found.append(Gpu(properties.name, properties.total_memory / GIB, free / GIB, properties.major >= 8))
    return tuple(found)


def nf4_failure(device: str) -> str | None:
    """Quantise a small tensor to NF4 on a device, restore it and compare; return what went wrong, None if it works."""
    try:
        import torch
        from bitsandbytes import functional

        original = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(device)
        packed, state = functional.quantize_4bit(original, blocksize=64, compress_statistics=True, quant_type="nf4")
        restored = functional.dequantize_4bit(packed, state)
        error = (restored - original).abs().amax(dim=1) / original.abs().amax(dim=1)  # a row of 64 is one block
    except Exception as failure:  # a missing package, a library without this device's kernels, a driver: all count
        return _one_line(failure)
    worst = error.max().item()
    if not worst <= NF4_LARGEST_ERROR:  # also where it is not a number
        return f"wrong numbers: restored values are off by {worst:.2f} of their block's largest one"
    return None


def nvidia_driver() -> bool:
    """Tell whether an NVIDIA driver is installed, whatever torch sees."""
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def version(package: str) -> str | None:
    """Return an installed package's version without importing it (importing unsloth patches other libraries)."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def memory() -> Memory:
    """Return main memory, bounded by the container's limit where there is one."""
    host = psutil.virtual_memory()
    total, available = host.total, host.available
    for limit_file, used_file in CGROUPS:
        try:
            limit, used = int(Path(limit_file).read_text()), int(Path(used_file).read_text())
        except (OSError, ValueError):  # no such hierarchy, or "max": no limit
            continue
        if limit < total:
            total, available = limit, min(available, max(0, limit - used))
    return Memory(total / GIB, available / GIB)


def free_disk_gib(path: Path) -> float:
    """Return the free space where a path is or would be created."""
    path = path.expanduser().absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free / GIB


def model_cache() -> Path:
    """Return the folder into which the Hub's client downloads models."""
    if folder := os.environ.get("HF_HUB_CACHE"):
        return Path(folder).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("HF_HOME") or cache / "huggingface").expanduser() / "hub"


def keys_present() -> dict[str, bool]:
    """Tell which API keys are set in the environment; their values stay there."""
    return {key: bool(os.environ.get(key)) for key in KEYS}


def hub_failure(timeout: float = 5.0) -> str | None:
    """Ask the Hugging Face Hub (or HF_ENDPOINT) for its front page; return why that failed, None if it answered."""
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=timeout):
            return None
    except urllib.error.HTTPError as error:
        if error.code in (401, 404, 405):  # a mirror that answers, but has no front page
            return None
        return f"{endpoint}: HTTP {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return f"{endpoint}: {error.reason}"
    except (OSError, ValueError) as error:  # a time-out while reading; an endpoint that is no URL
        return f"{endpoint}: {_one_line(error)}"


def _one_line(error: Exception) -> str:
    """Return the kind and first line of an error."""
    first = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
