"""`doctor` as a user meets it: what they print, on which stream, with which exit code."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from lite_huatuo import recipe
from lite_huatuo.planning import hardware

SECRET = "sk-never-to-be-shown"
HEALTHY = hardware.Machine(
    python="3.11.7",
    python_ok=True,
    torch=hardware.Torch("2.13.0", "12.8", True, None),
    gpus=(),
    nvidia_driver=False,
    libraries=dict.fromkeys(hardware.LIBRARIES, "1.0"),
    bitsandbytes="0.50.2",
    nf4_failures={"cuda:0": None},
    unsloth=None,
    memory=hardware.Memory(32.0, 30.0),
    run_disk_gib=900.0,
    model_cache="/cache",
    model_disk_gib=900.0,
    keys=dict.fromkeys(hardware.KEYS, False),
    hub_asked=False,
    hub_failure=None,
)
CARDS = {
    "small": hardware.Gpu("Small", 7.8, 7.6, True),
    "consumer": hardware.Gpu("Consumer", 23.6, 23.3, True),
    "large": hardware.Gpu("Large", 79.2, 78.8, True),
    "old": hardware.Gpu("Old", 23.6, 23.3, False),
    "busy": hardware.Gpu("Busy", 23.6, 3.0, True),
}
SMALL = {"demo", "qwen7b", "qwen7b-12gb", "qwen7b-zh", "llama8b", "llama8b-12gb"}


@pytest.fixture
def on(monkeypatch):
    """Put the doctor before another machine."""

    def place(*cards, **changes):
        machine = dataclasses.replace(HEALTHY, gpus=tuple(CARDS[card] for card in cards), **changes)
        monkeypatch.setattr(hardware, "inspect", lambda folder, online: machine)

    return place


def fits(run):
    """Return the recipes the doctor says fit."""
    told = json.loads(run("doctor", "--json")[1])["recipes"]
    return {name for name, verdict in told.items() if verdict["fits"]}


# doctor on this machine: real imports, a real NF4 round trip


def test_doctor_finds_what_works_here(run):
    code, out, _ = run("doctor", "--json")
    told = json.loads(out)
    found = {check["name"]: check for check in told["checks"]}
    assert (code, told["can_train"]) == (0, True)
    assert found["python"]["found"].startswith("3.")
    assert "NF4 works on" in found["bitsandbytes"]["found"]
    assert told["facts"]["memory"]["total_gib"] > told["facts"]["memory"]["available_gib"] > 0


def test_doctor_prints_tables_and_what_to_do_next(run, monkeypatch):
    monkeypatch.setattr(hardware, "memory", lambda: hardware.Memory(16.0, 12.0))
    code, out, _ = run("doctor")
    assert code == 0
    for word in (
        "python",
        "torch",
        "bitsandbytes",
        "NF4 works",
        "HF_TOKEN",
        "what to do",
        "12.0 GiB available of 16.0",
        "estimate, not measured on a GPU",
        "This machine can train:",
        "lite-huatuo train --recipe demo",
        *recipe.names(),
    ):
        assert word in out


def test_doctor_shows_of_keys_only_whether_they_are_set(run, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for arguments in (["doctor"], ["doctor", "--json"]):
        _, out, err = run(*arguments)
        assert SECRET not in out + err
    assert json.loads(out)["facts"]["keys"] == {"OPENAI_API_KEY": True, "HF_TOKEN": False, "WANDB_API_KEY": False}


def test_doctor_asks_the_hub_only_when_told_to(run, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    _, out, _ = run("doctor", "--json")
    assert "Hub" not in {check["name"] for check in json.loads(out)["checks"]}
    code, out, _ = run("doctor", "--online", "--json")
    hub = next(check for check in json.loads(out)["checks"] if check["name"] == "Hub")
    assert "http://127.0.0.1:9" in hub["found"]
    assert code == 0  # local files can be trained on


def test_doctor_fails_where_quantization_gives_wrong_numbers(run, monkeypatch):
    import torch
    from bitsandbytes import functional

    monkeypatch.setattr(functional, "dequantize_4bit", lambda packed, state: torch.zeros(64, 64, device=packed.device))
    code, out, _ = run("doctor")
    assert code == 1
    assert re.search("NF4 fails on (cpu|cuda:0): wrong numbers", " ".join(out.split()))
    assert "Nothing can be trained here" in out
    assert "pip install --force-reinstall" in out


def test_doctor_fails_where_bitsandbytes_cannot_be_used(run, monkeypatch):
    from bitsandbytes import functional

    def broken(*_, **__):
        raise RuntimeError("no kernel\nand a page of advice")

    monkeypatch.setattr(functional, "quantize_4bit", broken)
    code, out, _ = run("doctor", "--json")
    assert (code, json.loads(out)["can_train"]) == (1, False)
    assert "RuntimeError: no kernel" in out
    assert "page of advice" not in out


def test_doctor_fails_where_torch_cannot_be_imported():
    told = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['lite-huatuo', 'doctor']\n"
        "from lite_huatuo.cli.main import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1, ended.stderr
    assert "torch            FAIL" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr


# doctor on other machines


def test_without_a_gpu_the_demo_fits_and_nothing_else(run, on):
    on()
    assert fits(run) == {"demo"}


def test_too_little_memory_is_told_without_failing(run, on):
    on(memory=hardware.Memory(2.0, 1.5))
    code, out, _ = run("doctor")
    assert code == 0
    assert "no: 1.5 GiB of memory available" in out
    assert "No shipped recipe fits" in out


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        (["small"], {"demo"}),
        (["consumer"], SMALL),
        (["consumer"] * 2, SMALL),
        (["small"] * 3, {"demo", "qwen7b", "qwen7b-12gb", "qwen7b-zh"}),  # those of 7B shared by three
        (["consumer"] * 4, SMALL),
        (["large"], set(recipe.names())),
    ],
)
def test_what_fits_on_which_gpus(run, on, cards, expected):
    on(*cards)
    assert fits(run) == expected


@pytest.mark.parametrize(
    ("cards", "recipe_name", "how"),
    [
        (["large"] * 8, "qwen72b", "yes, on 8 GPUs"),
        (["large"], "qwen72b", "yes, with --set launch.processes=1 on Large"),
        (["large"] * 4, "qwen72b", "yes, with --set launch.processes=1 on Large"),
        (["large"] * 4, "llama70b-48gb", "yes, on 4 GPUs"),
        (
            ["small"] * 3,
            "qwen7b-12gb",
            "yes, with --set launch.processes=3 --set launch.strategy=fsdp2 on 3 GPUs together",
        ),
    ],
)
def test_the_overrides_that_make_it_fit_are_told(run, on, cards, recipe_name, how):
    on(*cards)
    assert json.loads(run("doctor", "--json")[1])["recipes"][recipe_name]["why"].startswith(how)


def test_a_second_larger_gpu_is_used_by_naming_it(run, on):
    on("small", "consumer")
    assert "yes, on Consumer with CUDA_VISIBLE_DEVICES=1" in run("doctor")[1]


def test_a_busy_gpu_and_a_full_disk_are_told(run, on):
    on("busy", model_disk_gib=3.0)
    verdict = json.loads(run("doctor", "--json")[1])["recipes"]["qwen7b"]["why"]
    assert "other programs hold too much of it" in verdict
    assert "the model cache lacks room" in verdict


def test_a_gpu_without_bfloat16_is_noted(run, on):
    on("old")
    assert "no native bfloat16" in run("doctor")[1]


def test_a_driver_with_a_torch_for_cpus_is_told(run, on):
    on(nvidia_driver=True, torch=hardware.Torch("2.13.0+cpu", None, False, None))
    code, out, _ = run("doctor")
    assert code == 0
    assert "install a CUDA build" in " ".join(out.split())


@pytest.mark.parametrize(
    "changes",
    [
        {"python": "3.9.1", "python_ok": False},
        {"bitsandbytes": None},
        {"libraries": {**HEALTHY.libraries, "peft": None}},
    ],
    ids=["python too old", "no bitsandbytes", "no peft"],
)
def test_what_stops_all_training_fails_and_says_what_to_do(run, on, changes):
    on("large", **changes)
    code, out, _ = run("doctor", "--json")
    failed = [check for check in json.loads(out)["checks"] if check["status"] == "FAIL"]
    assert code == 1
    assert len(failed) == 1
    assert "install" in failed[0]["advice"]
    assert fits(run) == set()


def test_needs_are_those_of_the_plan(run, on):
    on("consumer")
    planned = json.loads(run("plan", "--recipe", "llama8b", "--json")[1])
    told = json.loads(run("doctor", "--json")[1])["recipes"]["llama8b"]["needs"]
    assert f"{planned['peak']['bytes'] / 2**30:.1f} GiB on one GPU" in told


@pytest.mark.parametrize(("version", "ok"), [((3, 9, 18), False), ((3, 10, 0), True), ((3, 13, 1), True)])
def test_pythons_new_enough(version, ok):
    assert hardware.python_ok(version) is ok


def test_free_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    assert hardware.free_disk_gib(tmp_path / "not" / "yet") == pytest.approx(hardware.free_disk_gib(tmp_path), abs=0.5)


def test_memory_is_bounded_by_the_container(tmp_path, monkeypatch):
    (tmp_path / "max").write_text(f"{2 * hardware.GIB}\n")
    (tmp_path / "current").write_text(f"{hardware.GIB // 2}\n")
    monkeypatch.setattr(hardware, "CGROUPS", ((str(tmp_path / "max"), str(tmp_path / "current")),))
    assert hardware.memory() == hardware.Memory(2.0, 1.5)
    (tmp_path / "max").write_text("max\n")
    assert hardware.memory().total_gib != 2.0


# recipes
