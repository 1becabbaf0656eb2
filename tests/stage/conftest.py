"""What the tests of stages share."""

from __future__ import annotations

import pytest

from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir
from tests import tiny
from tests.once import made_once


@pytest.fixture(scope="session")
def whole(short_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The short recipe's run, undisturbed: what others are compared with. Do not write into it."""
    return RunDir.open(made_once(tmp_path_factory, "whole", lambda folder: tiny.trained(short_recipe, folder)))
