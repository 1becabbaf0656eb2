"""The floors of the house (docs: a module imports from lower floors; on its own floor only inside its own folder), who
may import which library, and how long files and functions may be. Read from the syntax trees: every import counts, also
those inside functions, except those for type checkers only. What may not be written at all: test_supply_chain.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import lite_huatuo
from tests.forbidden import imports

PACKAGE = Path(lite_huatuo.__file__).parent
REPOSITORY = PACKAGE.parent

# Floor -> modules under lite_huatuo; `*` is one folder's modules. A module in no row fails the test.
FLOORS = {
    8: ["__main__"],
    7: ["cli.*"],
    6: ["rehearsal.*", "bench.*"],  # run the stages, as a user would
    5: [
        "data.pipeline",
        "training.sft",
        "training.ppo",
        *("evaluation.run", "evaluation.targets", "evaluation.students"),
        "export.hub",
        "report.*",
        "planning.launch",
        *("planning.plan", "planning.needs"),
        "training.preflight",
        "training.ppo_stage",
        *("training.verifier_train", "training.verifier_checkpoint", "training.run_replies"),
    ],  # no stage, but it takes a whole recipe and asks verifier.choose
    4: ["planning.settings", "planning.row_count"],
    3: [
        "data.problems",
        "data.search",
        "data.rewrite",
        "data.mix",
        "data.exams",
        "data.stats",
        "data.runner",
        "data.shards",
        "verifier.api",
        "verifier.judge_room",
        "verifier.build",
        "verifier.sampling",
        "verifier.acceptance",
        *("verifier.choose", "verifier.adapter", "verifier.card"),
        *("training.joint", "training.sft_trainer", "verifier.on_main"),
        *("training.rollout", "training.decoding", "training.decoding_padded", "training.vllm_engine"),
        "training.heldout",
        "training.checkpoint",
        "training.inputs",
        "training.ppo_update",
        "training.ppo_figures",
        "training.sft_data",
        "training.watch",
        *("evaluation.benchmarks", "evaluation.compare", "evaluation.table", "evaluation.predictions"),
        "export.*",
        "planning.memory",
        *("planning.models", "planning.phases", "planning.work", "planning.cards", "planning.config_file"),
        "planning.cost",
    ],
    2: [
        "data.client",
        "data.batch",
        "data.profile",
        "data.store",
        *("data.completion", "data.connection", "data.usage"),
        *("data.sources", "data.files", "data.containers", "data.hub_rows"),
        "data.side_files",
        "verifier.classifier",
        "models.*",
        "training.trackers",
        *("evaluation.score", "evaluation.truth"),  # Wilson's interval is verifier.metrics'
    ],
    1: [
        "jsonl",
        *("recipe", "schema", "run_dir", "processes", "manifest", "lock", "hub_access"),
        "planning.hardware",
        *("data.asking", "data.finish", "data.refusals"),
        "data.replies",
        "data.limits",
        "data.decontaminate",
        "data.overlap",
        "data.rules",
        "data.texts",
        *("training.ppo_math", "training.phases", "training.finite"),
        "training.logprobs",
        "training.reward",
        "training.progress",
        "training.metrics",
        *("evaluation.answers", "evaluation.statements", "evaluation.naming"),
        "verifier.exact",
        "verifier.exact_cues",
        "verifier.exact_frames",
        "verifier.exact_objections",
        "verifier.exact_reply",
        "verifier.suite",
        "verifier.attacks",
        "verifier.attack_texts",
        "verifier.ensemble",
        "verifier.metrics",
        "verifier.verdict_words",
        "verifier.medical_terms",
    ],
    # "" is the version
    0: [
        *("errors", "nearest", "records", "exam_rows", "exam_options"),
        *("response_format", "prompts", "prompts.*", "verifier.base"),
        *("stopping", "thinking_marks", ""),
    ],
}
STAGES = [
    "data.pipeline",
    "training.sft",
    "training.ppo",
    "evaluation.run",
    "export.hub",
    "report.page",
    "planning.launch",
]
DATA_ONLY = ["planning.configs", "data.demo", "data.profiles", "recipes", "verifier.cases"]  # packages of data files

# Library -> modules that may import it.
LIBRARIES = {
    "unsloth": ["models.backends"],
    "peft": ["models.*", "training.sft", "export.*"],
    "bitsandbytes": [
        "models.*",
        "training.sft",
        "export.*",
        "training.ppo_update",
        "training.ppo_figures",  # its paged 8-bit AdamW, one optimiser of several
        "planning.hardware",  # asks whether it works here
        "bench.nf4",
    ],
    "click": ["cli.*"],
    "gradio": ["cli.chat_web"],
    "openai": ["data.client", "data.connection"],
}
# Modules that must start fast: neither they nor what they import may import torch.
WITHOUT_TORCH = [
    "cli.main",
    "recipe",
    "schema",
    "records",
    "jsonl",
    "errors",
    "data.sources",
    "data.problems",
    "data.search",
    "data.rewrite",
    "run_dir",
    "response_format",
    "verifier.exact",
    *("evaluation.answers", "evaluation.benchmarks", "evaluation.compare"),
    "report.page",
]
FILE_LINES, FUNCTION_LINES = 350, 60


def name_of(path: Path) -> str:
    """Return a file's module name under lite_huatuo, "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items()}
# Folders' __init__ files hold a docstring only (tested below) and have no floor.
FOLDERS = {name for name, path in MODULES.items() if path.name == "__init__.py" and name}


def matches(module: str, patterns: list[str]) -> bool:
    return any(fnmatch(module, pattern) and module.count(".") == pattern.count(".") for pattern in patterns)


def floor(module: str) -> int | None:
    """Return a module's floor; an exact name counts before a folder's `*`."""
    for exact in (True, False):
        for number, patterns in FLOORS.items():
            if module in patterns if exact else matches(module, [p for p in patterns if "*" in p]):
                return number
    return None


def inner(name: str) -> str | None:
    """Return the module under lite_huatuo that a dotted import name reaches, None for other libraries.

    A name that is neither a module nor something in one stays as it is, and fails for having no file.
    """
    if name.split(".")[0] != "lite_huatuo":
        return None
    name = name.removeprefix("lite_huatuo").removeprefix(".")
    holder = name.rpartition(".")[0]
    holds = holder in MODULES and (holder not in FOLDERS if holder else hasattr(lite_huatuo, name))
    return holder if holds and name not in MODULES else name


def folder(module: str) -> str:
    return module.rpartition(".")[0]


def broken_floors(module: str, tree: ast.AST) -> list[str]:
    """Return what is wrong with a module's imports from the house."""
    wrong, mine = [], floor(module)
    for line, name in imports(tree):
        target = inner(name)
        if name.startswith("."):
            wrong.append(f"{line}: relative import; write lite_huatuo.…")
        elif target is None:
            if mine == 0 and name.split(".")[0] not in sys.stdlib_module_names:
                wrong.append(f"{line}: floor 0 is standard library only, not {name}")
        elif target not in MODULES or target in FOLDERS:
            wrong.append(f"{line}: {name} is no module of the house")
        elif floor(target) is None:
            wrong.append(f"{line}: {target} has no floor")
        elif matches(module, STAGES) and matches(target, STAGES) and target != module:
            wrong.append(f"{line}: stage {module} imports stage {target}; stages talk through files")
        elif floor(target) > mine or (floor(target) == mine and folder(target) != folder(module)):
            wrong.append(f"{line}: {module} (floor {mine}) imports {target} (floor {floor(target)})")
        elif target == "recipe" and mine < 4:
            wrong.append(f"{line}: recipes stop at floor 4; below it, plain keyword arguments")
    return wrong


def broken_libraries(module: str, tree: ast.AST) -> list[str]:
    """Return the imports of libraries that are kept to other modules."""
    found = ((line, name.split(".")[0]) for line, name in imports(tree))
    return [
        f"{line}: only {', '.join(LIBRARIES[library])} may import {library}"
        for line, library in found
        if library in LIBRARIES and not matches(module, LIBRARIES[library])
    ]


def too_long(tree: ast.AST) -> list[str]:
    return [
        f"{node.lineno}: {node.name} has {node.end_lineno - node.lineno + 1} lines, {FUNCTION_LINES} are allowed"
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]


ROOMS = [
    pytest.param(name, id=name or "lite_huatuo")
    for name in MODULES
    if name not in FOLDERS and not matches(name, DATA_ONLY)
]


@pytest.mark.parametrize("module", ROOMS)
def test_every_module_has_one_floor(module: str) -> None:
    assert floor(module) is not None, f"{module} stands on no floor: add it to FLOORS in tests/test_floors.py"
    exact = [number for number, patterns in FLOORS.items() if module in patterns]
    assert len(exact) <= 1, f"{module} stands on floors {exact}"


@pytest.mark.parametrize("module", ROOMS)
def test_imports_go_down(module: str) -> None:
    assert floor(module) is not None, f"{module} stands on no floor: add it to FLOORS in tests/test_floors.py"
    assert broken_floors(module, TREES[module]) == []


@pytest.mark.parametrize("module", ROOMS)
def test_libraries_are_imported_only_where_they_may_be(module: str) -> None:
    assert broken_libraries(module, TREES[module]) == []


@pytest.mark.parametrize("module", sorted(FOLDERS))
def test_a_folders_init_holds_a_docstring_only(module: str) -> None:
    assert [type(node) for node in TREES[module].body] in ([], [ast.Expr]), f"{module}/__init__.py runs code"


def test_the_walk_saw_the_house() -> None:
    assert {"errors", "training.ppo", "training.ppo_math", "models.backends", "cli.main"} <= set(MODULES)
    seen = {name for _, name in imports(TREES["models.backends"])}
    assert {"unsloth", "torch", "lite_huatuo.models.gguf", "transformers.AutoModelForCausalLM"} <= seen


def test_what_must_start_fast_never_loads_torch() -> None:
    names = [f"lite_huatuo.{name}" for name in WITHOUT_TORCH]
    heavy = ["torch", "transformers", "trl", "peft", "datasets", "openai"]
    code = (
        f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


SOURCES = [
    pytest.param(path, id=str(path.relative_to(REPOSITORY)))
    for room in (PACKAGE, *(REPOSITORY / name for name in ("tests", "examples", "benchmarks")))
    for path in sorted(room.rglob("*.py"))
]


@pytest.mark.parametrize("path", SOURCES)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.count("\n") <= FILE_LINES, f"{path} has {text.count(chr(10))} lines, {FILE_LINES} are allowed"
    assert too_long(ast.parse(text)) == []
