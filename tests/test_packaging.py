"""What stands in the checkout is what a wheel holds: every package, every data file, and the names of the field."""

from __future__ import annotations

import configparser
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parent.parent


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def packages() -> dict[str, Path]:
    """Return every package folder of the checkout by its name in the wheel."""
    found = {
        ".".join(path.parent.relative_to(ROOT).parts): path.parent for path in ROOT.glob("lite_huatuo/**/__init__.py")
    }
    return {**found, "lite_huatuo.recipes": ROOT / "recipes"}


def test_every_package_is_listed() -> None:
    listed = setup()["options"]["packages"].split()
    assert sorted(listed) == sorted(packages())


def test_every_data_file_is_packed() -> None:
    patterns = {name: value.split(", ") for name, value in setup()["options.package_data"].items()}
    for name, folder in packages().items():
        for path in folder.iterdir():
            if path.is_file() and path.suffix != ".py":
                assert any(fnmatch(path.name, p) for p in patterns.get(name, [])), f"{path} is in no package_data"


def test_constraints_pin_what_is_installed_for_tests() -> None:
    text = setup()["options"]["install_requires"] + setup()["options.extras_require"]["dev"]
    names = {
        line.split(">")[0].split("=")[0].split("[")[0].strip()
        for line in text.split("\n")
        if line.strip() and "#" not in line
    }
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().split("\n") if "==" in line}
    assert names <= pinned, names - pinned
