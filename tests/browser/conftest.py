"""A real Chromium for tests of pages. Everything a page complains of fails its test: errors on the console, exceptions,
and every request that leaves the page, which is refused as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
INSIDE = ("file:", "data:", "blob:", "about:")  # what a page made of one file may ask for
DESKTOP, PHONE = (1280, 900), (390, 844)  # width and height in CSS pixels


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these files unread unless browser tests are asked for: they import packages of extras."""
    return None if "browser" in (config.getoption("-m") or "") else True


class Watched:
    """A page under watch. `page` is Playwright's; `problems` says what went wrong on it so far, `warnings` what its
    console warned of, which fails nothing."""

    def __init__(self, context: Any, allow: tuple[str, ...]) -> None:
        self.allowed = (*INSIDE, *allow)
        self.problems: list[str] = []
        self.warnings: list[str] = []
        context.route("**/*", self._route)
        self.page = context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        self.page.on("websocket", lambda socket: self._check(socket.url))

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text}")
        elif message.type == "warning":
            self.warnings.append(message.text)

    def _check(self, url: str) -> bool:
        inside = url.startswith(self.allowed)
        if not inside:
            self.problems.append(f"request: {url}")
        return inside

    def _route(self, route: Any) -> None:
        if self._check(route.request.url):
            route.continue_()
        else:
            route.abort()


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """Chromium, with a profile of its own; it ends with this folder's tests, for Playwright holds an event loop."""
    if not CHROMIUM.is_file():
        pytest.fail(f"{CHROMIUM}: no Chromium; `apt-get install chromium`, or name another in CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def show(chromium: Any) -> Iterator[Callable[..., Watched]]:
    """Return a function that opens an address and gives the watched page; whatever it complains of fails the test.

    `allow` are beginnings of addresses that may be asked for beside the page's own (`("http://127.0.0.1:",
    "ws://127.0.0.1:")` for a page that is served), `size` is DESKTOP or PHONE, `scheme` is light or dark; more goes to
    Playwright's `new_context`.
    """
    opened: list[tuple[Any, Watched]] = []

    def open_page(
        url: str, *, allow: tuple[str, ...] = (), size: tuple[int, int] = DESKTOP, scheme: str = "light", **more: Any
    ) -> Watched:
        viewport = {"width": size[0], "height": size[1]}
        phone = {"has_touch": True, "is_mobile": True} if size == PHONE else {}
        context = chromium.new_context(viewport=viewport, color_scheme=scheme, **{**phone, **more})
        watched = Watched(context, allow)
        opened.append((context, watched))
        watched.page.goto(url)
        return watched

    yield open_page
    problems = [problem for _, watched in opened for problem in watched.problems]
    for context, _ in opened:
        context.close()
    assert not problems, problems
