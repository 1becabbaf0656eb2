"""The watch over pages sees what it is there for: without these tests a page could err unseen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.conftest import Watched

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("<script>console.error('alas')</script>", "console: alas"),
        ("<script>nowhere()</script>", "exception: nowhere is not defined"),
        ("<img src='http://127.0.0.1:9/x.png'>", "request: http://127.0.0.1:9/x.png"),
        ("<script>new WebSocket('ws://127.0.0.1:9/')</script>", "request: ws://127.0.0.1:9/"),
    ],
)
def test_what_a_page_complains_of_is_seen(
    body: str, problem: str, tmp_path: Path, show: Callable[..., Watched]
) -> None:
    (tmp_path / "page.html").write_text(f"<!doctype html><title>t</title><p>text{body}")
    watched = show((tmp_path / "page.html").as_uri())
    watched.page.wait_for_timeout(200)
    assert problem in watched.problems
    watched.problems.clear()  # they were asked for


def test_what_is_allowed_is_no_problem(tmp_path: Path, show: Callable[..., Watched]) -> None:
    (tmp_path / "page.html").write_text("<!doctype html><title>t</title><img src='data:,'><p>text")
    assert show((tmp_path / "page.html").as_uri()).page.locator("p").inner_text() == "text"
