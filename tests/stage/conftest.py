"""What the tests of stages share."""

from __future__ import annotations

import pytest

from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir
from tests import tiny


@pytest.fixture(scope="session")
def whole(short_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The short recipe's run, undisturbed: what others are compared with. Do not write into it."""
    return tiny.trained(short_recipe, tmp_path_factory.mktemp("whole") / "run")
