"""Write docs/dependencies.md, the licences of all that is installed with lite-huatuo, or check it (`--check`).

The check holds where other versions are installed than when the page was written: every package that setup.cfg names is
in the table with the licence it has here, and nothing that comes with them is under a licence that binds its users.
"""

from __future__ import annotations

import configparser
import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "dependencies.md"
# How packages write a licence in words, and its SPDX name.
NAMES = (
    (r"apache", "Apache-2.0"),
    (r"\bmit\b", "MIT"),
    (r"3-clause bsd|bsd[- ]3", "BSD-3-Clause"),
    (r"2-clause bsd|bsd[- ]2", "BSD-2-Clause"),
    (r"\bbsd\b", "BSD"),
    (r"mozilla|mpl", "MPL-2.0"),
    (r"python software foundation|psf|matplotlib", "PSF-2.0"),
    (r"\bisc\b", "ISC"),
    (r"nvidia", "NVIDIA, proprietary"),
)
BINDING = re.compile(r"(?<!L)(?:A?GPL|SSPL|EUPL|CC-BY-NC)", re.IGNORECASE)
HEAD = """# Dependencies and their licences

Written by `python docs/dependencies.py` from the metadata of what is installed; `--check` compares. lite-huatuo itself
is Apache-2.0. Versions stand in [constraints.txt](../constraints.txt), bounds in [setup.cfg](../setup.cfg). The extras
unsloth, vllm, multi-gpu, serve and web bring more packages with licences of their own; so does torch with CUDA
(NVIDIA's libraries, proprietary and free of charge).

Asked for: `run` by lite-huatuo itself, `dev` for its tests, `-` by one of the others.

| package | licence | asked for |
|---|---|---|
"""


def key(name: str) -> str:
    """Return a package's name as indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct() -> tuple[dict[str, str], dict[str, set[str]]]:
    """Return {package: run or dev} of what setup.cfg asks for, and {package: extras}."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    found: dict[str, str] = {}
    extras: dict[str, set[str]] = {}
    for label, text in (("dev", setup["options.extras_require"]["dev"]), ("run", setup["options"]["install_requires"])):
        for line in text.strip().split("\n"):
            if line.strip() and not line.strip().startswith("#"):
                need = Requirement(line.strip())
                found[key(need.name)], extras[key(need.name)] = label, need.extras
    return found, extras


def closure(names: dict[str, set[str]]) -> set[str]:
    """Return the installed ones of these packages {name: extras} and of all that they need here."""
    seen: set[tuple[str, str]] = set()  # (package, its extra or "")
    rest = [(name, extra) for name, extras in names.items() for extra in ("", *extras)]
    while rest:
        name, extra = rest.pop()
        try:
            needs = [Requirement(text) for text in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
        if (name, extra) not in seen:
            seen.add((name, extra))
            wanted = [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
            rest += [(key(need.name), more) for need in wanted for more in ("", *need.extras)]
    return {name for name, _ in seen}


def licence(name: str) -> str:
    """Return an installed package's licence: its SPDX expression, or what its words stand for."""
    told = metadata.metadata(name)
    if told.get("License-Expression"):
        return str(told["License-Expression"])
    marks = [c.rpartition(" :: ")[2] for c in told.get_all("Classifier") or [] if c.startswith("License :: ")]
    words = " / ".join(marks) or (told.get("License") or "").strip().split("\n")[0][:60]
    return next((spdx for pattern, spdx in NAMES if re.search(pattern, words.lower())), words) or "unknown"


def page() -> str:
    """Return the whole page."""
    asked, extras = direct()
    rows = [f"| {name} | {licence(name)} | {asked.get(name, '-')} |" for name in sorted(closure(extras))]
    return HEAD + "\n".join(rows) + "\n"


def problems() -> list[str]:
    """Return where the page is wrong."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    table = {
        cells[1].strip(): cells[2].strip() for cells in (line.split("|") for line in text.split("\n")) if cells[2:]
    }
    found = []
    asked, extras = direct()
    for name in sorted(closure(extras)):
        here = licence(name)
        if BINDING.search(here):
            found.append(f"{name}: {here}: whoever ships it must ship under that licence, too")
        if name in asked and table.get(name) != here:
            found.append(f"{name}: {here} here, {table.get(name, 'missing')} in {PAGE.name}; write the page anew")
    return found


def main() -> None:
    """Write, or check."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
        return
    wrong = problems()
    for line in wrong:
        print(line)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
