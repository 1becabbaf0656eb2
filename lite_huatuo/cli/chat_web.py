"""`chat --web`: base, SFT and PPO side by side in a browser. Served to this machine only unless a host is given; the
page asks nothing of any other server, and nothing in a reply acts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import: gradio sends nothing
import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import PlainTextResponse

from lite_huatuo.cli import chat_page, terminal
from lite_huatuo.cli.chat_page import NOTHING, WAITING, Shown
from lite_huatuo.errors import BackendError, LiteHuatuoError

if TYPE_CHECKING:
    from lite_huatuo.evaluation.students import Said, Students

LOOPBACK = ("127.0.0.1", "localhost", "::1")
QUESTION_LENGTH = 20_000  # characters
REDRAW = 0.15  # least seconds between two pictures of a reply
HOTTEST = 2.0
# What gradio's own pages need, and nothing from outside. It writes templates with eval.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def serve(students: Students, *, temperature: float, max_tokens: int, host: str | None, port: int) -> None:
    """Serve the page until Ctrl-C, on loopback unless a host is given; port 0 is a free one."""
    address = host or LOOPBACK[0]
    if address not in LOOPBACK:
        terminal.say(
            f"warning: --host {address}: whoever can reach this machine can ask the model; there is no password",
            err=True,
        )
    try:
        listener = socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    except OSError as error:
        raise BackendError(f"chat --web: cannot listen on {address}, port {port} ({error.strerror or error})") from None
    app = application(students, temperature=temperature, max_tokens=max_tokens, open_to_all=address not in LOOPBACK)
    shown = f"[{address}]" if ":" in address else address
    with listener:
        terminal.say(f"open http://{shown}:{listener.getsockname()[1]} in a browser; Ctrl-C ends")
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def application(students: Students, *, temperature: float, max_tokens: int, open_to_all: bool = False) -> Any:
    """Return the ASGI application. Unless `open_to_all` it answers only to this machine's names, so that no page from
    elsewhere can reach it by a name of its own."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app = gr.mount_gradio_app(
        app,
        blocks(students, temperature=temperature, max_tokens=max_tokens),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=1,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=chat_page.CSS,
    )
    if not open_to_all:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])
    return Guarded(app)


class Guarded:
    """An ASGI application whose answers carry HEADERS, and which refuses what another site's page sends."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on a request, or refuse it."""
        asked = dict(scope.get("headers", ()))
        origin = asked.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != asked.get(b"host"):
            await PlainTextResponse("another site's page", status_code=403)(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                theirs = [(name, value) for name, value in message["headers"] if name.decode().lower() not in HEADERS]
                message = {**message, "headers": [*theirs, *ours]}
            await send(message)

        await self._app(scope, receive, with_headers)


def blocks(students: Students, *, temperature: float, max_tokens: int) -> Any:
    """Return the page: a question, one column a student, earlier questions below."""
    asking = Asking(students)
    with gr.Blocks(title="lite-huatuo", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(f"<p>{chat_page.DISCLAIMER}</p>", elem_classes="lh-disclaimer", js_on_load=None)
        box = gr.Textbox(
            label="Question", info="Each question stands alone: replies know nothing of earlier ones.",
            placeholder="Which vitamin is missing in scurvy?", lines=2, max_lines=12, max_length=QUESTION_LENGTH,
            autofocus=True, submit_btn=False, elem_id="question",
        )  # fmt: skip
        with gr.Row():
            ask = gr.Button("Ask", variant="primary", min_width=80, elem_id="ask")
            stop = gr.Button("Stop", variant="stop", interactive=False, min_width=80, elem_id="stop")
            clear = gr.Button("Clear", min_width=80, elem_id="clear")
        with gr.Accordion("Settings", open=False):
            heat = gr.Slider(0, max(HOTTEST, temperature), temperature, step=0.05, label="Temperature (0: greedy)")
            most = gr.Slider(
                1, max(max_tokens, students.most_tokens), max_tokens, step=1, label="Most tokens of a reply"
            )
        asked = gr.HTML("", js_on_load=None)
        with gr.Row(elem_classes="lh-columns"):
            columns = [
                gr.HTML(chat_page.card(name, NOTHING), js_on_load=None, elem_id=f"column-{place}")
                for place, name in enumerate(students.names)
            ]  # fmt: skip
        earlier = gr.HTML("", js_on_load=None, elem_id="earlier")
        past = gr.State([])
        shown = [asked, *columns, earlier, past]
        controls = [box, ask, stop, clear]
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        gr.on([ask.click, box.submit], asking.ask, [box, heat, most, past], [*controls, *shown], **quiet)
        stop.click(asking.stop, queue=False, **quiet)
        clear.click(asking.clear, None, shown, queue=False, **quiet)
        page.unload(asking.stop)
    page.queue(default_concurrency_limit=1, api_open=False)
    return page


class Asking:
    """What the page's buttons do. A turn is (question, {name: reply}); a session's past is a list of them."""

    def __init__(self, students: Students) -> None:
        self.students = students
        self._stops: dict[str | None, threading.Event] = {}

    def ask(
        self, question: str, temperature: float, most: float, past: list[Any], request: gr.Request
    ) -> Iterator[list[Any]]:
        """Have every student answer, one after the other; yield values for the controls and what is shown."""
        names, skip = self.students.names, gr.skip()
        question = question.strip()[:QUESTION_LENGTH]
        if not question:
            yield [skip] * (4 + 1 + len(names) + 2)
            return
        stop = self._stops[request.session_hash] = threading.Event()
        replies = dict.fromkeys(names, WAITING)
        cards = [chat_page.card(name, WAITING) for name in names]
        yield [*_controls(busy=True), chat_page.question(question), *cards, chat_page.history(past), skip]
        try:
            for place, name in enumerate(names):
                for shown in self._reply(name, question, temperature, int(most), stop):
                    replies[name] = shown
                    columns = [skip] * len(names)
                    columns[place] = chat_page.card(name, shown)
                    yield [*[skip] * 5, *columns, skip, skip]
        finally:
            stop.set()
            self._stops.pop(request.session_hash, None)
        yield [*_controls(busy=False), skip, *[skip] * len(names), skip, [*past, (question, replies)]]

    def _reply(self, name: str, question: str, temperature: float, most: int, stop: threading.Event) -> Iterator[Shown]:
        """Yield a reply as it grows, a few times a second."""
        if stop.is_set():
            yield Shown("", "stopped")
            return
        options: dict[str, Any] = {"temperature": temperature, "max_tokens": most, "stop": stop}
        drawn = 0.0
        try:
            said: Said
            for said in self.students.answer(name, question, **options):
                if said.end is not None or time.monotonic() - drawn >= REDRAW:
                    yield Shown(said.text, said.end)
                    drawn = time.monotonic()
        except LiteHuatuoError as error:
            yield Shown(f"No reply: {error}", "failed")

    def stop(self, request: gr.Request) -> None:
        """End what is being written for this session."""
        event = self._stops.get(request.session_hash)
        if event is not None:
            event.set()

    def clear(self) -> list[Any]:
        """Forget the session's questions."""
        cards = [chat_page.card(name, NOTHING) for name in self.students.names]
        return ["", *cards, "", []]


def _controls(*, busy: bool) -> list[Any]:
    """Return the states of question, ask, stop and clear."""
    return [gr.update(interactive=not busy), gr.update(interactive=not busy), gr.update(interactive=busy),
            gr.update(interactive=not busy)]  # fmt: skip
