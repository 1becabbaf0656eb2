"""The page of a run in a real browser: drawn, read by eye, mouse, finger and keyboard, and nothing in it acts."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lite_huatuo.report import page as pages
from tests import made_run
from tests.browser.conftest import DESKTOP, PHONE, Watched

pytestmark = pytest.mark.browser
Show = Callable[..., Watched]

STATES = {
    "finished": "Finished",
    "running": "In progress: PPO",
    "crashed": "Stopped in PPO",
    "hostile": "In progress",
    "new": "Not started",
    "long": "Finished",
}
# Every text that can be seen, its colour, and the colour behind it: [[text, [r, g, b], [r, g, b]], …]
SEEN = """() => {
  const rgb = (css) => css.match(/[\\d.]+/g).map(Number);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const back = rgb(getComputedStyle(each).backgroundColor);
      if (back.length === 3 || back[3] === 1) return back.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility() || element.closest("script, style, noscript, :disabled")) continue;
    const style = getComputedStyle(element);
    found.push([text, rgb(element.closest("svg") ? style.fill : style.color).slice(0, 3), behind(element)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of runs in every state, by name."""
    folder = tmp_path_factory.mktemp("runs")
    made_run.write(folder / "finished")
    made_run.write(folder / "running", updates=5, finished=False)
    made_run.write(folder / "long", updates=3000)
    made_run.write(folder / "crashed", updates=7, finished=False, heldout=False)
    for name in ("ppo/metrics.jsonl", "ppo/samples.jsonl", "events.jsonl"):
        path = folder / "crashed" / name
        path.write_bytes(path.read_bytes()[:-20])
    made_run.age(folder / "crashed", 7200)
    made_run.hostile(folder / "hostile")
    (folder / "new").mkdir()
    (folder / "new" / "recipe.yaml").write_text("name: new\n")
    for name in STATES:
        pages.write(folder / name, folder / f"{name}.html", most_samples=200)
    return {name: folder / f"{name}.html" for name in STATES}


@pytest.fixture
def opened(show: Show, made: dict[str, Path]) -> Callable[..., Any]:
    """Return a function that opens a page by its name and waits for its curves."""

    def open_page(name: str = "finished", **options: Any) -> Any:
        watched = show(made[name].as_uri(), **options)
        watched.page.wait_for_selector("html[data-drawn]", state="attached")
        assert watched.warnings == []
        return watched.page

    return open_page


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
def test_every_run_has_a_page_that_fits(
    opened: Callable[..., Any], name: str, size: tuple[int, int], scheme: str
) -> None:
    page = opened(name, size=size, scheme=scheme)
    assert page.locator(".state").inner_text() == STATES[name]
    assert page.evaluate("document.documentElement.scrollWidth") == size[0], "nothing to scroll to the side"
    charts = page.locator(".chart")
    assert page.locator(".chart svg").count() == charts.count()
    assert (charts.count() == 0) == (name == "new")
    for box in (chart.bounding_box() for chart in page.locator(".chart svg").all()):
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size[0]
        assert box["height"] > 150


def test_a_crashed_run_says_what_is_damaged(opened: Callable[..., Any]) -> None:
    notice = opened("crashed").locator(".notice").inner_text()
    assert notice.count("the last line is torn") == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["finished", "crashed"])
def test_every_text_is_readable(opened: Callable[..., Any], name: str, scheme: str) -> None:
    page = opened(name, scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    seen = page.evaluate(SEEN)
    assert len(seen) > 200
    assert {"Loss", "update"} <= {text for text, _, _ in seen}, "the texts in the curves too"
    assert [(text, ratio) for text, front, back in seen if (ratio := contrast(front, back)) < 4.5] == []
    light = luminance(seen[0][2]) > 0.5
    assert light == (scheme == "light")


def luminance(rgb: list[float]) -> float:
    """Return the relative luminance of an sRGB colour (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(front: list[float], back: list[float]) -> float:
    """Return the contrast ratio of two colours (WCAG 2)."""
    high, low = sorted((luminance(front), luminance(back)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_button_overrules_the_system(opened: Callable[..., Any]) -> None:
    page = opened(scheme="light")

    def colours() -> tuple[str, str]:
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return back, page.locator(".chart svg .role-axis-label text").first.get_attribute("fill")

    button, before = page.locator("#theme"), colours()
    button.click()
    assert button.inner_text() == "Colours: light"
    button.click()
    page.wait_for_selector("html[data-drawn]", state="attached")
    assert button.inner_text() == "Colours: dark"
    dark = colours()
    assert dark[0] != before[0]
    assert dark[1] != before[1], "the curves follow"
    page.emulate_media(color_scheme="dark")
    button.click()
    page.wait_for_selector("html[data-drawn]", state="attached")
    assert (button.inner_text(), colours()) == ("Colours: system", dark)


def test_hovering_shows_the_values_at_the_pointer(opened: Callable[..., Any]) -> None:
    page = opened()
    chart = page.locator("figure", has_text="held out for selection").locator(".chart")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 9, box["y"] + box["height"] / 2)
    tip = page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    row = made_run.metric_row(12)
    said = dict(zip(tip.locator(".key").all_inner_texts(), tip.locator(".value").all_inner_texts(), strict=True))
    assert said == {
        "update": "12",
        "episodes": f"{row['score/mean']:.4g}",
        "held out for selection": f"{row['heldout/score']:.4g}",
    }
    page.mouse.move(1, 1)
    tip.wait_for(state="hidden")


def test_a_finger_shows_the_values_too(opened: Callable[..., Any]) -> None:
    page = opened(size=PHONE)
    chart = page.locator("figure", has_text="held out for selection").locator(".chart")
    chart.tap()
    page.locator("#vg-tooltip-element.visible .value").first.wait_for()


def test_the_keyboard_pages_samples(opened: Callable[..., Any]) -> None:
    page = opened()
    pane, place, question = page.locator("#pane"), page.locator("#place"), page.locator("#sample-question")
    assert (place.inner_text(), question.inner_text()) == ("1 of 60", "Question 4: which?")
    page.keyboard.press("ArrowRight")
    assert place.inner_text() == "1 of 60", "only with the focus on the samples"
    pane.focus()
    moves = {"ArrowRight": +1, "ArrowLeft": -1, "j": +1, "k": -1, "End": +60, "Home": -60}
    at = 1
    for key in ("ArrowRight", "j", "ArrowRight", "ArrowLeft", "k", "k", "k", "End", "j", "ArrowLeft", "Home"):
        at = min(60, max(1, at + moves[key]))
        page.keyboard.press(key)
        assert place.inner_text() == f"{at} of 60", key
    thinking = page.locator("#sample-thinking p")
    assert not thinking.is_visible()
    page.keyboard.press("t")
    assert (thinking.inner_text(), page.locator("#sample-final").inner_text()) == ("Thinking of 4.", "It is answer 4.")
    page.locator("#next").click()
    assert (place.inner_text(), thinking.is_visible()) == ("2 of 60", True)
    page.keyboard.press("ArrowRight")
    assert place.inner_text() == "3 of 60", "a button in the pane is in the pane"
    assert page.locator("#sample-reply").inner_text() == "Loose words 6."


def test_samples_are_chosen_by_origin_and_verdict(opened: Callable[..., Any]) -> None:
    page = opened()
    place, said = page.locator("#place"), page.locator("#sample-verdict")
    page.select_option("#verdict", "unjudged")
    assert (place.inner_text(), said.inner_text()) == ("1 of 12", "not judged")
    page.select_option("#from", "PPO, update 5")
    assert (place.inner_text(), page.locator("#sample-question").inner_text()) == ("1 of 1", "Question 23: which?")
    assert page.locator("#sample-numbers").inner_text() == "score –, 63 tokens"
    page.select_option("#from", "held-out, SFT")
    assert (place.inner_text(), page.locator("#sample").is_visible()) == ("None is like that", False)
    page.select_option("#verdict", "right")
    assert (place.inner_text(), page.locator("#sample-truth").inner_text()) == ("1 of 1", "truth 900")


def test_nothing_hostile_acts(show: Show, made: dict[str, Path]) -> None:
    watched = show(made["hostile"].as_uri())
    page = watched.page
    page.wait_for_selector("html[data-drawn]", state="attached")
    page.evaluate("() => { window.hits = []; window.hit = (what) => hits.push(what); }")
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.locator("#pane").focus()
    assert "hit('script')" in page.locator("#sample-final").inner_text()
    page.keyboard.press("j")
    assert "onerror=hit('img')" in page.locator("#sample-reply").inner_text()
    assert page.evaluate("[hits, document.images.length, document.scripts.length]") == [[], 0, 3]
    assert watched.problems == []


def test_the_policy_holds_what_would_slip_through(show: Show, made: dict[str, Path]) -> None:
    watched = show(made["finished"].as_uri())
    watched.page.wait_for_selector("html[data-drawn]", state="attached")
    code = "hits = 1"
    inside = [
        "<img src=http://127.0.0.1:9/x.png>",
        f"<img src=data:, onerror='{code}'>",
        "<iframe src=http://127.0.0.1:9/>",
    ]
    watched.page.evaluate("(html) => document.body.insertAdjacentHTML('beforeend', html)", "".join(inside))
    watched.page.evaluate(f"document.body.append(Object.assign(document.createElement('script'), {{text: {code!r}}}))")
    watched.page.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
    watched.page.wait_for_timeout(200)
    assert watched.page.evaluate("typeof hits") == "undefined"
    assert watched.problems
    assert all("Content Security Policy" in problem for problem in watched.problems), watched.problems
    watched.problems.clear()  # they were asked for


def test_the_layout_stands_still(opened: Callable[..., Any], show: Show, made: dict[str, Path]) -> None:
    def heights(page: Any) -> list[float]:
        return [figure.bounding_box()["height"] for figure in page.locator("figure").all()]

    undrawn = heights(show(made["finished"].as_uri(), java_script_enabled=False).page)
    assert len(undrawn) > 10
    assert heights(opened()) == undrawn, "drawing moves nothing"


def test_the_page_has_an_order_and_names(opened: Callable[..., Any]) -> None:
    page = opened(reduced_motion="reduce")
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((each) => Number(each.tagName[1]))")
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    unnamed = "(each) => !(each.labels?.length || each.textContent.trim() || each.ariaLabel)"
    assert page.evaluate(f"[...document.querySelectorAll('button, select')].filter({unnamed}).length") == 0
    assert page.evaluate("[...document.querySelectorAll('.chart')].every((each) => each.ariaLabel.includes(':'))")
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_long_run_stays_small_and_quick(opened: Callable[..., Any], made: dict[str, Path]) -> None:
    assert made["long"].stat().st_size < 2.5 * 2**20
    start = time.monotonic()
    page = opened("long")
    assert time.monotonic() - start < 30
    assert "Means of 13 updates" in page.locator("figure").nth(1).inner_text()
    assert "Of 12,000 replies sampled in 3,000 updates" in page.locator("#samples").inner_text()
    assert len(json.loads(page.locator("#data").inner_text() or page.evaluate("data.textContent"))["samples"]) <= 212
