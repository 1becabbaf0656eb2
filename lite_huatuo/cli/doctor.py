"""`lite-huatuo doctor`: what this machine can train, and what is missing."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lite_huatuo.cli import terminal

if TYPE_CHECKING:
    from lite_huatuo.planning.hardware import Gpu, Machine
    from lite_huatuo.planning.needs import Need

OK, NOTE, FAIL = "ok", "note", "FAIL"  # FAIL: nothing can be trained until it is put right
GIB = 2**30
GB_PER_GIB = 1.073741824
KEY_USES = {
    "OPENAI_API_KEY": "only a teacher model needs it",
    "HF_TOKEN": "gated bases (Llama) and pushing an export need it: set it, or run `hf auth login`",
    "WANDB_API_KEY": "only `report_to: [wandb]` needs it",
}


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    status: str
    found: str
    advice: str = ""


@click.command("doctor")
@click.option("--online", is_flag=True, help="Also ask whether the Hugging Face Hub answers; else nothing is sent.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: can_train, checks, recipes, facts.")
@click.pass_context
def command(ctx: click.Context, online: bool, as_json: bool) -> None:
    """Tell what this machine can train and what is missing.

    Exits with 1 only when nothing can be trained. Keys are told as set or not set, never shown.

    \b
    lite-huatuo doctor
    lite-huatuo doctor --online --json
    """
    from lite_huatuo import recipe as recipes
    from lite_huatuo.planning import hardware
    from lite_huatuo.planning.needs import need

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of optional kernels on first use
    machine = hardware.inspect(Path("runs"), online=online)
    checks = list(examine(machine))
    can_train = all(check.status != FAIL for check in checks)
    needed = {name: need(recipes.load(name), cards=max(1, len(machine.gpus))) for name in recipes.names()}
    fits = {name: verdict(needed[name], machine, can_train=can_train) for name in needed}
    if as_json:
        terminal.say(
            json.dumps(
                {
                    "can_train": can_train,
                    "checks": [dataclasses.asdict(check) for check in checks],
                    "recipes": {
                        name: {"fits": fit, "why": why, "needs": needs(needed[name]), "measured_on_gpu": False}
                        for name, (fit, why) in fits.items()
                    },
                    "facts": dataclasses.asdict(machine),
                },
                indent=2,
                ensure_ascii=False,
            )
        )
    else:
        _show(checks, fits, {name: needs(found) for name, found in needed.items()}, can_train)
    ctx.exit(0 if can_train else 1)


def examine(machine: Machine) -> Iterator[Check]:
    """Yield the rows: what was found and what to do about it."""
    yield (
        Check("python", OK, machine.python)
        if machine.python_ok
        else Check("python", FAIL, machine.python, "install Python 3.10 or newer")
    )
    torch = machine.torch
    if torch.failure:
        yield Check("torch", FAIL, torch.failure, "run: pip install --force-reinstall 'torch>=2.6,<2.14'")
    else:
        build = f", built for CUDA {torch.cuda_build}" if torch.cuda_build else ", a build without CUDA"
        yield Check("torch", OK, f"{torch.version}{build}")
    yield _libraries(machine)
    yield from _gpus(machine)
    yield _quantization(machine)
    yield (
        Check("unsloth", OK, f"{machine.unsloth}, used where a recipe says base.backend: unsloth; untried on a GPU")
        if machine.unsloth
        else Check("unsloth", NOTE, "not installed", "optional, for base.backend: unsloth, which no GPU has run here")
    )
    memory = machine.memory
    yield Check("memory", OK, f"{memory.available_gib:.1f} GiB available of {memory.total_gib:.1f}")
    yield Check("disk, runs", OK, f"{machine.run_disk_gib:.0f} GiB free")
    yield Check("disk, models", OK, f"{machine.model_disk_gib:.0f} GiB free in {machine.model_cache}")
    for key, present in machine.keys.items():
        yield Check(key, OK, "set") if present else Check(key, NOTE, "not set", KEY_USES[key])
    if machine.hub_asked:
        yield (
            Check("Hub", OK, "answers")
            if machine.hub_failure is None
            else Check(
                "Hub", NOTE, machine.hub_failure, "check network and proxy; or give local files for base.model and data"
            )
        )


def needs(need: Need) -> str:
    """Return a recipe's needs in words."""
    if need.on_cpu:
        return f"a CPU with {need.cpu / GIB:.1f} GiB of memory, or any CUDA GPU"
    cards = "one GPU" if need.processes == 1 else f"each of {need.processes} GPUs"
    return f"{need.each / GIB:.1f} GiB on {cards}; a {need.download / 1e9:.0f} GB download"


def verdict(need: Need, machine: Machine, *, can_train: bool) -> tuple[bool, str]:
    """Return (fits, why) for a recipe on a machine."""
    if not can_train:
        return False, f"no: first put right what is marked {FAIL}"
    if not machine.gpus:
        return _on_cpu(need, machine)
    return _on_gpus(need, machine)


def _on_cpu(need: Need, machine: Machine) -> tuple[bool, str]:
    if not need.on_cpu:
        return False, "no: no CUDA GPU"
    if machine.memory.available_gib * GIB < need.cpu:
        return False, f"no: {machine.memory.available_gib:.1f} GiB of memory available"
    return True, "yes, on the CPU"


def _on_gpus(need: Need, machine: Machine) -> tuple[bool, str]:
    """A recipe of one process takes the first visible GPU, whatever the others are; one of several the first ones."""
    found = _placed(need, machine.gpus)
    if found is None:
        largest = max(gpu.memory_gib for gpu in machine.gpus)
        of = f" of {len(machine.gpus)}" if len(machine.gpus) > 1 else ""
        return False, f"no: the largest GPU{of} has {largest:.0f} GiB"
    used, wanted, where = found
    if min(gpu.free_gib for gpu in used) * GIB < wanted:
        where += "; but other programs hold too much of it now"
    if machine.model_disk_gib * GB_PER_GIB < need.download / 1e9:
        where += "; but the model cache lacks room for the download"
    return True, f"yes, {where}"


def _placed(need: Need, gpus: Sequence[Gpu]) -> tuple[Sequence[Gpu], int, str] | None:
    """Return (GPUs used, bytes wanted of each, in words where and with which overrides), None where nothing fits."""
    first = gpus[: need.processes]
    if need.processes > 1 and len(first) == need.processes and _hold(first, need.each):
        return first, need.each, f"on {need.processes} GPUs"
    alone = "" if need.processes == 1 else "with --set launch.processes=1 "
    for index, gpu in enumerate(gpus):
        if _hold([gpu], need.gpu):
            named = f" with CUDA_VISIBLE_DEVICES={index}" if index else ""
            return [gpu], need.gpu, f"{alone}on {gpu.name}{named}"
    if len(gpus) > 1 and need.spread is not None and _hold(gpus, need.spread):
        count = len(gpus)
        how = f"with --set launch.processes={count} --set launch.strategy=fsdp2 on {count} GPUs together"
        return gpus, need.spread, how
    return None


def _hold(gpus: Sequence[Gpu], wanted: int) -> bool:
    return min(gpu.memory_gib for gpu in gpus) * GIB >= wanted


def _libraries(machine: Machine) -> Check:
    missing = [name for name, version in machine.libraries.items() if version is None]
    if missing:
        return Check("libraries", FAIL, f"missing: {', '.join(missing)}", "install lite-huatuo again, it brings them")
    return Check("libraries", OK, ", ".join(f"{name} {version}" for name, version in machine.libraries.items()))


def _gpus(machine: Machine) -> Iterator[Check]:
    for index, gpu in enumerate(machine.gpus):
        found = f"{gpu.name}, {gpu.memory_gib:.1f} GiB ({gpu.free_gib:.1f} free)"
        yield (
            Check(f"GPU {index}", OK, found)
            if gpu.bf16
            else Check(
                f"GPU {index}",
                NOTE,
                found,
                "no native bfloat16: base.compute_dtype auto takes float16 here, which is untried",
            )
        )
    if machine.gpus:
        return
    if machine.nvidia_driver and machine.torch.failure is None:
        advice = (
            "set CUDA_VISIBLE_DEVICES, or update the driver"
            if machine.torch.cuda_build
            else "this torch is a CPU build: install a CUDA build, see https://pytorch.org/get-started"
        )
        yield Check("GPU", NOTE, "an NVIDIA driver, but torch sees no GPU", advice)
    else:
        yield Check("GPU", NOTE, "none", "the demo trains on the CPU; a 7B or 8B student wants a 24 GB CUDA GPU")


def _quantization(machine: Machine) -> Check:
    failed = {device: why for device, why in machine.nf4_failures.items() if why is not None}
    if machine.bitsandbytes is None:
        return Check("bitsandbytes", FAIL, "not installed", "run: pip install 'bitsandbytes>=0.50,<0.51'")
    if failed:
        found = "; ".join(f"NF4 fails on {device}: {why}" for device, why in failed.items())
        advice = (
            "put torch right first"
            if machine.torch.failure
            else "run: pip install --force-reinstall --no-deps 'bitsandbytes>=0.50,<0.51'"
        )
        return Check("bitsandbytes", FAIL, f"{machine.bitsandbytes}, {found}", advice)
    return Check("bitsandbytes", OK, f"{machine.bitsandbytes}, NF4 works on {', '.join(machine.nf4_failures)}")


def _show(checks: list[Check], fits: dict[str, tuple[bool, str]], wanted: dict[str, str], can_train: bool) -> None:
    """Print both tables and what to do next."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = terminal.console(120)
    styles = {OK: "green", NOTE: "yellow", FAIL: "bold red"}

    def table(*columns: str) -> Any:
        drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
        for index, column in enumerate(columns):
            drawn.add_column(column, no_wrap=index == 0, overflow="fold")
        return drawn

    drawn = table("check", "", "found", "what to do")
    for check in checks:
        drawn.add_row(check.name, Text(check.status, style=styles[check.status]), Text(check.found), Text(check.advice))
    console.print(drawn)
    console.print()
    drawn = table("recipe", "needs (estimate, not measured on a GPU)", "here")
    for name, (fit, why) in fits.items():
        drawn.add_row(name, wanted[name], Text(why, style="green" if fit else ""))
    console.print(drawn)
    console.print()
    fitting = [name for name, (fit, _) in fits.items() if fit]
    if not can_train:
        console.print(f"Nothing can be trained here until what is marked {FAIL} is put right.")
    elif fitting:
        console.print(f"This machine can train: {', '.join(fitting)}")
        console.print(f"Begin with: lite-huatuo train --recipe {fitting[0]}")
    else:
        console.print("No shipped recipe fits this machine; a smaller base in a recipe of yours may:")
        console.print("lite-huatuo recipes copy demo mine.yaml")
