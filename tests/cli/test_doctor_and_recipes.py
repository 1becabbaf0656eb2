"""`doctor` and `recipes` as a user meets them: what they print, on which stream, with which exit code."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from lite_huatuo import recipe
from lite_huatuo.cli import doctor
from lite_huatuo.cli.main import cli, main
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


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line as the shell would; return (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lite-huatuo", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


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
        (["consumer"], {"demo", "qwen7b", "qwen7b-zh", "llama8b"}),
        (["consumer"] * 2, {"demo", "qwen7b", "qwen7b-zh", "llama8b"}),
        (["small"] * 3, {"demo"}),  # a 7B student does not spread
        (["consumer"] * 4, set(doctor.NEEDS)),
        (["large"], set(doctor.NEEDS)),
    ],
)
def test_what_fits_on_which_gpus(run, on, cards, expected):
    on(*cards)
    assert fits(run) == expected


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


def test_every_shipped_recipe_has_its_needs_stated():
    assert set(doctor.NEEDS) == set(recipe.names())


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


def test_list_tells_every_recipe_and_its_purpose(run):
    code, out, _ = run("recipes", "list")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert code == 0
    assert list(lines) == recipe.names()
    assert lines["demo"].startswith("both stages on a CPU")
    assert json.loads(run("recipes", "list", "--json")[1]) == lines


def test_show_prints_the_file_with_its_comments(run):
    assert run("recipes", "show", "demo") == (0, recipe.text("demo")[1], "")


def test_show_resolved_fills_in_every_default_and_is_a_recipe(run, tmp_path):
    code, out, _ = run("recipes", "show", "llama8b", "--resolved")
    assert code == 0
    assert yaml.safe_load(out)["ppo"]["sample_every"] == 5  # not in the file
    (tmp_path / "resolved.yaml").write_text(out, encoding="utf-8")
    assert recipe.load(str(tmp_path / "resolved.yaml")) == recipe.load("llama8b")


def test_show_with_set_shows_the_value(run):
    _, out, _ = run("recipes", "show", "demo", "--set", "ppo.kl_coef=5e-2")
    assert yaml.safe_load(out)["ppo"]["kl_coef"] == 0.05


def test_check_says_ok(run, tmp_path):
    (tmp_path / "mine.yaml").write_text(recipe.text("demo")[1], encoding="utf-8")
    assert run("recipes", "check", "qwen7b") == (0, "ok\n", "")
    assert run("recipes", "check", tmp_path / "mine.yaml") == (0, "ok\n", "")


def test_check_tells_every_problem_and_exits_1(run, tmp_path):
    path = tmp_path / "mine.yaml"
    spoiled = recipe.text("demo")[1].replace("kl_coef:", "kl_coeff:").replace("gamma: 1.0", "gamma: 7")
    path.write_text(spoiled, encoding="utf-8")
    code, out, err = run("recipes", "check", path)
    assert (code, out) == (1, "")
    assert f"error: {path}: ppo.kl_coeff: unknown key; did you mean kl_coef?\n" in err
    assert f"error: {path}: ppo.gamma: " in err
    assert len(err.splitlines()) == 2


def test_check_with_a_bad_set_exits_1(run):
    code, _, err = run("recipes", "check", "demo", "--set", "ppo.kl_coef")
    assert code == 1
    assert err == "error: --set ppo.kl_coef: expected key.path=value, such as ppo.kl_coef=0.05\n"


@pytest.mark.parametrize("subcommand", [["show"], ["check"], ["copy"]])
def test_an_unknown_recipe_suggests_the_nearest(run, subcommand, tmp_path):
    to = [tmp_path / "x.yaml"] if subcommand == ["copy"] else []
    code, out, err = run("recipes", *subcommand, "qwen7", *to)
    assert (code, out) == (1, "")
    assert err == "error: qwen7: no such recipe or file; did you mean qwen7b?\n"


def test_copy_writes_the_recipe_and_says_how_to_go_on(run, tmp_path):
    path = tmp_path / "mine.yaml"
    code, out, _ = run("recipes", "copy", "qwen7b", path)
    assert code == 0
    assert path.read_text(encoding="utf-8") == recipe.text("qwen7b")[1]
    assert f"lite-huatuo train --recipe {path}" in out
    assert run("recipes", "check", path)[:2] == (0, "ok\n")


def test_copy_into_a_folder_keeps_the_name(run, tmp_path):
    assert run("recipes", "copy", "demo", tmp_path)[0] == 0
    assert (tmp_path / "demo.yaml").is_file()


def test_copy_refuses_an_existing_file_unless_forced(run, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("precious", encoding="utf-8")
    code, _, err = run("recipes", "copy", "demo", path)
    assert code == 1
    assert "exists already" in err
    assert "--force" in err
    assert path.read_text(encoding="utf-8") == "precious"
    assert run("recipes", "copy", "demo", path, "--force")[0] == 0
    assert path.read_text(encoding="utf-8") == recipe.text("demo")[1]


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_copy_to_a_place_that_cannot_be_written_says_why(run, tmp_path, force):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for to, why in (
        (tmp_path / "no" / "mine.yaml", f"there is no folder {tmp_path / 'no'}"),
        (tmp_path / "file" / "mine.yaml", f"there is no folder {tmp_path / 'file'}"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ):
        code, out, err = run("recipes", "copy", "demo", to, *force)
        assert (code, out) == (1, "")
        assert why in err
        assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_recipes_need_no_torch(tmp_path):
    told = (
        "import sys; sys.argv = ['lite-huatuo', 'recipes', 'show', 'demo', '--resolved']\n"
        "from lite_huatuo.cli.main import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    "command",
    [["doctor"], ["recipes"], ["recipes", "list"], ["recipes", "show"], ["recipes", "check"], ["recipes", "copy"]],
)
def test_help_has_a_summary_and_an_example(command):
    shown = CliRunner().invoke(cli, [*command, "--help"]).output
    assert f"  lite-huatuo {' '.join(command)}" in shown


@pytest.mark.parametrize(
    "arguments", [["recipes", "list", "extra"], ["recipes", "copy", "demo"], ["recipes", "draw"], ["doctor", "--fast"]]
)
def test_wrong_usage_exits_2(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: " in err
