"""The world that the pages share, and a run of the demo made by the docs' own command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs import world as worlds
from tests.docs.files import MAKERS
from tests.docs.world import World
from tests.mini_hub import MiniHub
from tests.scripted_server import ScriptedServer

TRAIN = "lite-huatuo train --recipe demo"


@pytest.fixture(scope="session")
def new_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], World]]:
    """Return a function that makes a working folder of that name, on one loopback Hub and teacher."""
    home = tmp_path_factory.mktemp("docs")
    model = worlds.demo_model(home)
    with MiniHub({worlds.TOKEN: ("user", "write")}) as hub, ScriptedServer(worlds.willing) as teacher:
        worlds.stock(hub, model)

        def make(name: str) -> World:
            (home / name).mkdir()
            return World(home / name, home, hub, teacher)

        yield make


@pytest.fixture(scope="session")
def demo_run(new_world: Callable[[str], World]) -> Path:
    """A finished run of the demo, made by the command that the pages presume. Do not write into it."""
    world = new_world("trained")
    ended = world.run(TRAIN.split(), frozenset({"minutes"}))
    assert ended.code == 0, ended.err
    return world.folder / "runs" / "demo"


@pytest.fixture
def prepare(new_world: Callable[[str], World], request: pytest.FixtureRequest) -> Callable[..., World]:
    """Return a function that makes a world with what a page presumes in it: names of `files.MAKERS`, or run folders."""

    def make(name: str, presumed: tuple[str, ...]) -> World:
        world = new_world(name)
        for each in presumed:
            path = world.folder / each
            if each in MAKERS:
                path.parent.mkdir(parents=True, exist_ok=True)
                MAKERS[each](path)
            else:
                worlds.copy_run(request.getfixturevalue("demo_run"), path)
        return world

    return make
