"""The form of a student's reply, in one place: render, parse, is_well_formed.

## Thinking

<complex CoT>

## Final Response

<response>
"""

from __future__ import annotations

from typing import NamedTuple

THINKING_HEADING = "## Thinking"
RESPONSE_HEADING = "## Final Response"
HEADINGS = (THINKING_HEADING, RESPONSE_HEADING)


class Sections(NamedTuple):
    """The two sections of a well-formed reply, stripped of surrounding white space."""

    thinking: str
    final_response: str


def render(thinking: str, final_response: str) -> str:
    """Return the reply that holds the two sections, exactly as the student is taught to write it."""
    return f"{THINKING_HEADING}\n\n{thinking.strip()}\n\n{RESPONSE_HEADING}\n\n{final_response.strip()}"


def parse(reply: str) -> Sections | None:
    """Read a reply strictly; None where it does not have the form.

    A heading is a line of its own, so the words "## Final Response" inside a sentence are text. Both headings must
    stand exactly once, in order, with nothing before the first. Both sections must hold at least one letter or digit
    (an opener such as ":" is not a response) and must not begin with an indented heading, which would be one as soon
    as the section is stripped.
    """
    lines = reply.strip().split("\n")
    headings = [(number, line.rstrip()) for number, line in enumerate(lines) if line.rstrip() in HEADINGS]
    if tuple(text for _, text in headings) != HEADINGS or headings[0][0] != 0:
        return None
    border = headings[1][0]
    sections = Sections("\n".join(lines[1:border]).strip(), "\n".join(lines[border + 1 :]).strip())
    return sections if all(map(_is_section, sections)) else None


def _is_section(text: str) -> bool:
    """True where a stripped text may be a section."""
    return any(c.isalnum() for c in text) and text.partition("\n")[0].rstrip() not in HEADINGS


def is_well_formed(reply: str) -> bool:
    """True where `parse` finds both sections."""
    return parse(reply) is not None
