"""What `chat --web` shows, as HTML: replies with the thinking folded, notes, the disclaimer. Texts are inert in it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lite_huatuo.cli.terminal import harmless
from lite_huatuo.response_format import RESPONSE_HEADING, THINKING_HEADING, Sections, parse

TITLES = {"base": "Base", "sft": "After SFT", "ppo": "After PPO"}
DISCLAIMER = (
    "<strong>Not for clinical use.</strong> This is a research model. It can be wrong while it sounds sure. Do not use "
    "it to diagnose, to treat, or in place of a doctor; enter no data of patients."
    '<span lang="zh"><strong>不得用于临床。</strong>本模型仅供研究，可能给出看似肯定却错误的回答；'
    "不能用于诊断或治疗，不能代替医生，请勿输入患者信息。</span>"
)
NOTES = {
    "form": "Without the form (## Thinking, then ## Final Response): shown as it is.",
    "cut": "Cut at the limit of tokens.",
    "stopped": "Stopped.",
    "early": "There is no final response.",
    "empty": "The reply is empty.",
    "waiting": "Waiting…",
    "nothing": "Nothing asked yet.",
}
CSS = """
.gradio-container { overflow: visible !important; }  /* or nothing in it can stick to the window */
.gradio-container { --body-text-color-subdued: #59616b; --block-info-text-color: #59616b; }
.dark .gradio-container, .gradio-container.dark { --body-text-color-subdued: #aab3be;
  --block-info-text-color: #aab3be; }
.gradio-container .html-container, .lh-disclaimer, .lh-disclaimer.block { padding: 0; }
.lh-disclaimer { position: sticky; top: 0; z-index: 10; }
.lh-disclaimer p { margin: 0; padding: .6rem .9rem; border-radius: 8px; font-size: .9rem; line-height: 1.45;
  background: #fff4d6; color: #4a3200; border: 1px solid #e2b64a; }
.lh-disclaimer [lang=zh] { display: block; margin-top: .2rem; }
.dark .lh-disclaimer p { background: #3a2c08; color: #ffe7ad; border-color: #8a6a1c; }
.lh-question { margin: .2rem 0 .6rem; font-weight: 600; font-size: 1.05rem; white-space: pre-wrap;
  overflow-wrap: anywhere; color: var(--body-text-color); }
.lh-row, .lh-columns.row { display: grid; align-items: start; gap: 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 270px), 1fr)); }
.lh-card { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: .7rem .9rem; min-width: 0;
  background: var(--background-fill-primary); color: var(--body-text-color); }
.lh-card h3 { margin: 0 0 .5rem; font-size: .8rem; letter-spacing: .04em; text-transform: uppercase;
  color: var(--body-text-color-subdued); }
.lh-text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.5; }
.lh-thinking { margin: 0 0 .6rem; border-left: 3px solid var(--border-color-primary); padding-left: .7rem; }
.lh-thinking summary { cursor: pointer; color: var(--body-text-color-subdued); }
.lh-thinking .lh-text { margin-top: .4rem; font-size: .92rem; color: var(--body-text-color-subdued); }
.lh-note { margin: .6rem 0 0; font-size: .85rem; font-style: italic; color: var(--body-text-color-subdued); }
.lh-turn { border-top: 1px solid var(--border-color-primary); padding: .8rem 0 1rem; }
"""


@dataclass(frozen=True)
class Shown:
    """A reply to show: its text so far and its `end`: None while it is written, then ended, cut, stopped or failed (the
    text is the reason); nothing where nobody has asked."""

    text: str
    end: str | None


WAITING = Shown("", None)
NOTHING = Shown("", "nothing")


def escape(text: str) -> str:
    """Return a text as HTML that shows it and does nothing: no markup, no control characters, and nothing that the
    templates of gradio's HTML component (${…}, {{…}}) would read."""
    escaped = html.escape(harmless(text.replace("\r\n", "\n")))
    return "".join(f"&#{ord(sign)};" if sign in "{}$`\\" else sign for sign in escaped)


def split(text: str) -> tuple[str, str | None] | None:
    """Return (thinking, final response) of a reply that is being written; the response is None before its heading.

    None where the reply does not begin with the heading of the thinking, as far as one can see.
    """
    lines = text.lstrip().split("\n")
    if lines[0].rstrip() != THINKING_HEADING:
        begun = len(lines) == 1 and lines[0] != "" and THINKING_HEADING.startswith(lines[0])
        return ("", None) if begun else None
    for number, line in enumerate(lines):
        if line.rstrip() == RESPONSE_HEADING:
            return "\n".join(lines[1:number]).strip(), "\n".join(lines[number + 1 :]).strip()
    if len(lines) > 1 and lines[-1] and RESPONSE_HEADING.startswith(lines[-1]):
        lines = lines[:-1]  # the next heading is on its way
    return "\n".join(lines[1:]).strip(), None


def reply(shown: Shown) -> str:
    """Return a reply as HTML. The thinking is open while it is written, and folded when it is over."""
    if shown.end == "failed":
        return _note(shown.text)
    if not shown.text.strip():
        return _note(NOTES["waiting"] if shown.end is None else NOTES.get(shown.end, NOTES["empty"]))
    whole: Sections | None = parse(shown.text)
    parts: tuple[str, str | None] | None = whole
    if whole is None and shown.end != "ended":
        parts = split(shown.text)
    notes = [NOTES[shown.end]] if shown.end in ("cut", "stopped") else []
    if parts is None:
        if shown.end is not None:
            notes.append(NOTES["form"])
        return f'<div class="lh-text">{escape(shown.text)}</div>{_note(*notes)}'
    thinking, response = parts
    writing = shown.end is None and response is None
    if shown.end is not None and not response:
        notes.append(NOTES["early"])
    said = f'<div class="lh-response lh-text">{escape(response)}</div>' if response else ""
    return (
        f'<details class="lh-thinking"{" open" if writing else ""}><summary>Thinking{"…" if writing else ""}</summary>'
        f'<div class="lh-text">{escape(thinking)}</div></details>{said}{_note(*notes)}'
    )


def card(name: str, shown: Shown) -> str:
    """Return one student's reply with its title."""
    busy = ' aria-busy="true"' if shown.end is None else ""
    return f'<article class="lh-card"{busy}><h3>{escape(TITLES.get(name, name))}</h3>{reply(shown)}</article>'


def question(text: str) -> str:
    """Return a question as HTML."""
    return f'<p class="lh-question">{escape(text)}</p>'


def history(turns: Sequence[tuple[str, Mapping[str, Shown]]]) -> str:
    """Return earlier questions with all their replies, the newest first."""
    return "".join(
        f'<section class="lh-turn">{question(asked)}<div class="lh-row">'
        f"{''.join(card(name, shown) for name, shown in replies.items())}</div></section>"
        for asked, replies in reversed(turns)
    )


def _note(*notes: str) -> str:
    return f'<p class="lh-note">{escape(" ".join(notes))}</p>' if notes else ""
