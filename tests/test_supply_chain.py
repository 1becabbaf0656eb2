"""What comes from outside runs no code here: no file of the project unpickles, opens a shell or lets a model's own code
run, and everything that is installed has a version and a licence that are written down."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.forbidden import forbidden

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path for room in ("lite_huatuo", "benchmarks", "examples", "docs") for path in (ROOT / room).rglob("*.py")
)


def requirements(section: str) -> list[str]:
    """Return the names of what setup.cfg asks for in a section's options."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = [setup["options"]["install_requires"]] if section == "" else [setup["options.extras_require"][section]]
    lines = [line.strip() for text in texts for line in text.split("\n") if line.strip() and line.strip()[0] != "#"]
    return [name(line) for line in lines]


def name(requirement: str) -> str:
    """Return the package of a requirement, as indexes write it."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def pinned() -> dict[str, list[str]]:
    """Return {package: its lines} of constraints.txt."""
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").split("\n") if line and line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+(; .*)?", line) for line in lines), "every line pins one version"
    return {name(line): [other for other in lines if name(other) == name(line)] for line in lines}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_forbidden_is_written(path: Path) -> None:
    assert forbidden(ast.parse(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "yaml.load(text, Loader=yaml.FullLoader)",
        "yaml.unsafe_load(text)",
        "from yaml import UnsafeLoader",
        "from yaml import load",
        "numpy.load(path)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "import joblib",
        "joblib.load(path)",
        "asyncio.create_subprocess_shell(text)",
        "subprocess.getoutput(text)",
        "exec(text)",
        "__import__(name)",
        "compile(text, '', 'exec')",
        "torch.load(path, weights_only=True)",
        "load(weights_only=False)",
        "options['trust_remote_code'] = True",
        "trust_remote_code = True",
        "config.trust_remote_code = flag",
        "run(text, shell=True)",
        "import shelve",
        "_pickle.loads(data)",
        "from torch import load as read",
        "load(trust_remote_code=True)",
        "load(trust_remote_code=flag)",
        "options = {'trust_remote_code': True}",
        "import pickle",
        "from pickle import loads",
        "def f():\n    import dill",
        "os.system('ls')",
        "from os import system",
        "eval(text)",
    ],
)
def test_what_is_forbidden_is_found(source: str) -> None:
    assert forbidden(ast.parse(source)) != []


@pytest.mark.parametrize(
    "source",
    [
        "yaml.safe_load(text)",
        "class L(yaml.SafeLoader): pass",
        "re.compile(text)",
        "model.eval()",
        "load_file(path)",
        "load(trust_remote_code=False)",
        "subprocess.run(['git', 'log'])",
        "options['trust_remote_code'] = False",
        "torch.save_file(x)",
        "'nothing is unpickled, no torch.load'",
    ],
)
def test_what_is_allowed_is_let_pass(source: str) -> None:
    assert forbidden(ast.parse(source)) == []


def test_every_dependency_is_pinned_for_the_gate() -> None:
    missing = {*requirements(""), *requirements("dev")} - set(pinned())
    assert missing == set(), f"add them to constraints.txt: {missing}"


def test_what_is_installed_is_what_is_pinned() -> None:
    """In the gate's environment; elsewhere other versions within setup.cfg's bounds are as good."""
    wrong = {}
    for package, lines in pinned().items():
        try:
            installed = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here
        if not any(line.split(";")[0] == f"{line.split('==')[0]}=={installed.split('+')[0]}" for line in lines):
            wrong[package] = installed
    assert wrong == {}


def test_the_licence_table_names_every_direct_dependency() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    rows = {row.split("|")[1].strip(): row for row in page.split("\n") if row.startswith("| ") and "---" not in row}
    for package in {*requirements(""), *requirements("dev")}:
        assert package in rows, f"{package}: run docs/dependencies.py"
        assert rows[package].split("|")[2].strip() not in ("", "unknown"), f"{package}: has no licence in the table"


def test_the_licence_table_agrees_with_what_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "dependencies.py", "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
