"""Fixtures: tiny models made once a session, a finished toy run, and rules that keep the suite honest.

What takes seconds to import is imported in the fixtures: pytest-xdist's first process, which only hands out the tests,
and on which the others wait, does without.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing in the default tests may reach out
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from lite_huatuo import recipe as recipes
from lite_huatuo import stopping
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir
from tests.once import made_once

# The processes of `-n` inherit them from the first one: readline, which pytest imports, sets them behind Python's back.
for size in ("COLUMNS", "LINES"):
    os.environ.pop(size, None)
# On a busy machine time tells nothing.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
ASKED_FOR = ("slow", "gpu", "unsloth", "vllm", "llama_cpp", "browser")  # markers


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Several threads of torch on a busy machine are slower than one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the dequantised models of the tests out of the user's cache."""
    os.environ["LITE_HUATUO_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def signals_are_heard() -> None:
    """A command that ends in this process ends no process: pytest, and what it starts, must go on hearing signals."""
    stopping.ignore = lambda: None


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Model and data of the toy task: {model, sft, problems, heldout}."""
    from tests import tiny

    return tiny.toy_files(made_once(tmp_path_factory, "toy", tiny.write_toy))


@pytest.fixture(scope="session")
def toy_recipe(toy: dict[str, str]) -> Recipe:
    """The toy task's recipe: SFT and 50 updates of PPO in under a minute."""
    from tests import tiny

    return recipes.check(tiny.toy_recipe(toy), "toy")


@pytest.fixture(scope="session")
def short_recipe(toy: dict[str, str]) -> Recipe:
    """Both stages in a few seconds, with several checkpoints each; it learns next to nothing."""
    from tests import tiny

    return recipes.check(tiny.short_recipe(toy), "short")


@pytest.fixture(scope="session")
def toy_run(toy_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run of the toy recipe. Do not write into it."""
    from tests import tiny

    return RunDir.open(made_once(tmp_path_factory, "toy_run", lambda folder: tiny.trained(toy_recipe, folder)))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """A folder of real exam data, named by LITE_HUATUO_TEST_DATA."""
    folder = os.environ.get("LITE_HUATUO_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LITE_HUATUO_TEST_DATA does not name a folder of real exam data")
    return Path(folder)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes or needs more than is installed, unless it is asked for with -m."""
    if config.getoption("-m"):
        return
    kept, left = [], []
    for item in items:
        special = any(item.get_closest_marker(name) for name in ASKED_FOR)
        (left if special else kept).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """A skip is a failure, except where a GPU or real exam data is what is missing."""
    report = yield
    allowed = item.get_closest_marker("gpu") or item.get_closest_marker("shared_data")
    if report.skipped and not allowed:
        report.outcome = "failed"
        report.longrepr = f"skipped, which only gpu and shared_data tests may: {report.longrepr}"
    return report
