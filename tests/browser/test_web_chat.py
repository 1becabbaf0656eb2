"""`chat --web` in a real browser: students side by side, thinking folded, replies that cannot act."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn

from lite_huatuo.cli import chat_page, chat_web
from lite_huatuo.errors import BackendError
from lite_huatuo.response_format import render
from lite_huatuo.run_dir import RunDir
from tests import tiny
from tests.browser.conftest import DESKTOP, PHONE, Watched
from tests.browser.web_chat import ALLOW, Process, Scripted, served

pytestmark = pytest.mark.browser
Show = Callable[..., Watched]

HOSTILE = (
    "<script>hit('script')</script><img src=x onerror=hit('img')><svg onload=hit('svg')>"
    "</div></article><iframe src='http://127.0.0.1:9/'></iframe><a href=\"javascript:hit('a')\">a</a>"
    "![i](http://127.0.0.1:9/x.png) ${hit('template')} {{hit('bars')}} {{#each value}}x{{/each}} `${hit('tick')}`"
    "<style>body{display:none}</style><details open ontoggle=hit('toggle')>\x1b[2J\u202e"
)
WHOLE = render("It bleeds.\n\nSo what is missing?", "Vitamin C.")


@pytest.fixture(scope="module")
def process(toy_run: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The server of a run that was trained."""
    server = Process(toy_run.path, tmp_path_factory.mktemp("server"))
    yield server
    if server.child.poll() is None:
        server.child.kill()
        server.child.wait()


def opened(show: Show, url: str, **options: Any) -> Any:
    page = show(url, allow=ALLOW, **options).page
    page.wait_for_selector("#question textarea")
    return page


# The question is on the page, the controls are free again and no reply is being written. The question is counted: the
# same may be asked twice, and before the server answers the page looks as it does when all is over.
ANSWERED = """(questions) => document.querySelectorAll(".lh-question").length === questions
    && document.querySelector("#stop").disabled && !document.querySelector(".lh-card[aria-busy]")"""


def ask(page: Any, question: str, *, wait: bool = True) -> None:
    questions = page.locator(".lh-question").count() + 1
    page.fill("#question textarea", question)
    page.click("#ask")
    if wait:
        page.wait_for_function(ANSWERED, arg=questions)


def column(page: Any, place: int) -> Any:
    return page.locator(f"#column-{place} .lh-card")


def test_a_run_answers_side_by_side(show: Show, process: Process) -> None:
    page = opened(show, process.url)
    titles = page.locator(".lh-card h3").all_text_contents()
    assert titles == ["Base", "After SFT", "After PPO"]
    tops = {round(column(page, place).bounding_box()["y"]) for place in range(3)}
    assert len(tops) == 1, "beside each other"
    ask(page, "Patient 301 has rash. Which cure?")
    for place in (1, 2):
        thinking, response = column(page, place).locator("details"), column(page, place).locator(".lh-response")
        assert response.inner_text() in tiny.CURES
        assert not thinking.locator(".lh-text").is_visible(), "folded"
        assert thinking.bounding_box()["y"] < response.bounding_box()["y"]
        thinking.locator("summary").click()
        assert "rash" in thinking.locator(".lh-text").inner_text()
    assert chat_page.NOTES["form"] in column(page, 0).inner_text(), "the base does not know the form"
    replies = [column(page, place).inner_text() for place in range(3)]
    ask(page, "Patient 302 has fever. Which cure?")
    earlier = page.locator("#earlier")
    assert earlier.locator(".lh-question").all_inner_texts() == ["Patient 301 has rash. Which cure?"]
    assert earlier.locator(".lh-response").all_inner_texts() == [reply.split("\n")[-1] for reply in replies[1:]]
    page.click("#clear")
    page.wait_for_selector("#earlier .lh-question", state="detached")
    assert chat_page.NOTES["nothing"] in column(page, 2).inner_text()


def test_two_tabs_do_not_see_each_other(show: Show, process: Process) -> None:
    first, second = opened(show, process.url), opened(show, process.url)
    ask(first, "Patient 303 has cough. Which cure?")
    assert second.locator(".lh-question").count() == 0
    ask(second, "Patient 304 has rash. Which cure?")
    assert first.locator(".lh-question").all_inner_texts() == ["Patient 303 has cough. Which cure?"]


def test_the_server_reaches_nobody_and_ends_by_ctrl_c(process: Process) -> None:
    """Last of those that use it."""
    assert not process.connections.exists(), process.connections.read_text()
    process.child.send_signal(signal.SIGINT)
    assert process.child.wait(20) == 0
    assert "Traceback" not in process.stderr.read_text()


def test_nothing_in_a_reply_acts(show: Show) -> None:
    says = {"base": HOSTILE, "sft": render(HOSTILE, HOSTILE), HOSTILE: render("x", HOSTILE), "down": None}
    with served(Scripted(says)) as url:
        page = opened(show, url)
        page.evaluate("window.hits = []; window.hit = (what) => { hits.push(what); }; 0")
        images, frames = page.evaluate("document.images.length"), page.evaluate("window.length")
        for _ in range(2):  # the second time the first stands below
            ask(page, HOSTILE)
        assert page.locator(".lh-card").count() == 8
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        page.wait_for_timeout(300)
        shown = HOSTILE.replace("\x1b", "\\u001b").replace("\u202e", "\\u202e")
        texts = page.locator(".lh-text").all_text_contents()
        assert [text == shown for text in texts if text != "x"] == [True] * 8
        assert page.locator(".lh-question").all_text_contents() == [shown] * 2
        assert "No reply: <b>the endpoint</b> is down" in column(page, 3).inner_text()
        assert page.evaluate("hits") == []
        assert page.evaluate("[document.images.length, window.length]") == [images, frames]
        assert page.locator(".lh-card script, .lh-card img, .lh-card svg, .lh-card a, .lh-card style").count() == 0


def test_the_disclaimer_is_always_in_sight(show: Show) -> None:
    students = Scripted({"base": "Long. " * 900, "sft": WHOLE})
    with served(students) as url:
        for size, scheme in ((DESKTOP, "light"), (PHONE, "dark")):
            page = opened(show, url, size=size, scheme=scheme)
            ask(page, "Which vitamin is missing in scurvy?")
            assert page.evaluate("document.documentElement.scrollWidth") == size[0], "nothing to scroll to the side"
            page.mouse.move(100, 400)
            page.mouse.wheel(0, 2500)
            page.wait_for_function("window.scrollY > 500")
            box = page.locator(".lh-disclaimer p").bounding_box()
            assert 0 <= box["y"] <= size[1] / 2
            assert "Not for clinical use" in page.locator(".lh-disclaimer p").inner_text()
            boxes = [column(page, place).bounding_box() for place in range(2)]
            assert (boxes[0]["y"] == boxes[1]["y"]) == (size == DESKTOP), "a phone has one column"


def test_thinking_is_seen_while_it_is_written_and_stop_stops(show: Show) -> None:
    students = Scripted({"sft": render("It bleeds. " * 200, "Vitamin C."), "ppo": WHOLE}, pause=0.2)
    with served(students) as url:
        page = opened(show, url)
        ask(page, "Which vitamin is missing?", wait=False)
        page.wait_for_selector("#stop:enabled")
        column(page, 0).locator("details[open] .lh-text", has_text="It bleeds. It bleeds.").wait_for()
        assert page.locator("#ask").is_disabled()
        page.click("#stop")
        page.wait_for_selector("#stop:disabled")
        assert chat_page.NOTES["stopped"] in column(page, 0).inner_text()
        assert chat_page.NOTES["early"] in column(page, 0).inner_text()
        assert chat_page.NOTES["stopped"] in column(page, 1).inner_text()
        assert [each["name"] for each in students.asked] == ["sft"], "who was to come is not asked"
        students.pause = 0.0
        ask(page, "And which one now?")
        assert column(page, 1).locator(".lh-response").inner_text() == "Vitamin C."


def test_settings_and_odd_questions(show: Show) -> None:
    students = Scripted({"ppo": "Vitamin C."})
    with served(students) as url:
        page = opened(show, url)
        page.click("#ask")
        page.fill("#question textarea", "  \n ")
        page.click("#ask")
        page.wait_for_timeout(500)
        assert students.asked == []
        page.get_by_text("Settings").click()
        page.get_by_label("number input for Temperature (0: greedy)").fill("0.7")
        page.get_by_label("number input for Most tokens of a reply").fill("12")
        page.keyboard.press("Tab")
        page.fill("#question textarea", "Why?")
        page.press("#question textarea", "Shift+Enter")
        column(page, 0).get_by_text("Vitamin C.").wait_for()
    assert students.asked == [{"name": "ppo", "question": "Why?", "temperature": 0.7, "max_tokens": 12}]


def test_only_this_machine_is_answered() -> None:
    with served(Scripted({"ppo": "Vitamin C."})) as url:
        answered = httpx.get(url)
        assert answered.status_code == 200
        assert answered.headers["content-security-policy"] == chat_web.POLICY
        assert "http://" not in answered.text.replace(url, "")
        config = httpx.get(f"{url}/config").json()
        assert config["analytics_enabled"] is False
        for name in ("evil.example", "evil.example:7860", ""):
            assert httpx.get(url, headers={"host": name}).status_code == 400, "a name of somebody else for this machine"
        join = f"{url}/gradio_api/queue/join"
        assert httpx.post(join, headers={"origin": "https://evil.example"}).status_code == 403, "another site's page"
        assert httpx.post(join, headers={"origin": url}).status_code == 422, "our own, with nothing in it"
        for path in ("/docs", "/gradio_api/file=/etc/hostname"):
            assert httpx.get(url + path).status_code in (403, 404), path


def test_who_listens_where(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bound: list[str] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: bound.append(sockets[0].getsockname()[0]))
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": 8}
    chat_web.serve(Scripted({"ppo": ""}), host=None, port=0, **options)
    assert "warning" not in capsys.readouterr().err
    chat_web.serve(Scripted({"ppo": ""}), host="0.0.0.0", port=0, **options)
    assert bound == ["127.0.0.1", "0.0.0.0"]
    assert "warning: --host 0.0.0.0: whoever can reach this machine can ask the model" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BackendError, match=f"cannot listen on 127.0.0.1, port {port}"):
            chat_web.serve(Scripted({"ppo": ""}), host=None, port=port, **options)
