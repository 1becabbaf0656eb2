"""The reply's form: what is rendered is read back, and nothing that only looks like a heading counts as one."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lite_huatuo.response_format import RESPONSE_HEADING, THINKING_HEADING, Sections, is_well_formed, parse, render

GOOD = "## Thinking\n\nFever and rash.\n\n## Final Response\n\nIt is measles."


def usable(text: str) -> bool:
    """True for what a section may hold: a letter or digit, and no line that is a heading."""
    lines = [line.rstrip() for line in text.strip().split("\n")]
    return any(c.isalnum() for c in text) and THINKING_HEADING not in lines and RESPONSE_HEADING not in lines


# Text in which headings, near-headings and line ends are likely.
PIECES = st.sampled_from(
    [
        "## Thinking",
        "## Final Response",
        "##",
        "# ",
        "\n",
        "\n\n",
        " ",
        "\r\n",
        "\t",
        "\u2028",
        "```",
        "measles",
        "麻疹",
        ":",
        "7",
    ]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=14).map("".join))


def test_the_form_is_the_one_the_design_gives() -> None:
    assert render("Fever and rash.", "It is measles.") == GOOD
    assert parse(GOOD) == Sections("Fever and rash.", "It is measles.")


@given(TEXTS.filter(usable), TEXTS.filter(usable))
@example("it says ## Final Response here", "and\u2028here ## Thinking too")
def test_what_is_rendered_is_read_back(thinking: str, final_response: str) -> None:
    assert parse(render(thinking, final_response)) == Sections(thinking.strip(), final_response.strip())


@given(TEXTS)
def test_parse_never_raises_and_agrees_with_is_well_formed(reply: str) -> None:
    sections = parse(reply)
    assert is_well_formed(reply) == (sections is not None)
    if sections is not None:
        assert all(any(c.isalnum() for c in text) and text == text.strip() for text in sections)


@given(TEXTS.filter(usable), TEXTS.filter(usable), st.sampled_from([THINKING_HEADING, RESPONSE_HEADING]), st.data())
def test_a_heading_too_many_is_refused_wherever_it_stands(thinking: str, response: str, heading: str, data) -> None:
    lines = render(thinking, response).split("\n")
    place = data.draw(st.integers(0, len(lines)))
    assert parse("\n".join([*lines[:place], heading, *lines[place:]])) is None


@pytest.mark.parametrize(
    "thinking",
    [
        "I will write ## Final Response below.",
        "The headings are `## Thinking` and `## Final Response`.",
        "> ## Final Response",
        "- ## Final Response",
        "an example:\n    ## Final Response\n    rest",
        "### Final Response\nno",
        "## Final Response: no",
        "## final response\nno",
        "**## Final Response**",
        "##Final Response\n##  Final Response",
        "<thinking>hm</thinking>\n# Final Response",
        "a\u2028## Final Response\u2028b",  # not a line end here, nor in our files
    ],
    ids=lambda text: text[:24],
)
def test_headings_inside_sentences_and_code_are_text(thinking: str) -> None:
    assert parse(render(thinking, "measles")) == Sections(thinking, "measles")
    assert parse(render("hm", f"so: {thinking}")) == Sections("hm", f"so: {thinking}")


@pytest.mark.parametrize(
    ("why", "reply"),
    [
        ("no heading", "It is measles."),
        ("nothing", ""),
        ("white space", " \n\t\n"),
        ("thinking only", "## Thinking\n\nFever."),
        ("response only", "## Final Response\n\nMeasles."),
        ("words of the headings in one sentence", "Here is ## Thinking and here ## Final Response: measles"),
        ("headings on one line", "## Thinking hm ## Final Response measles"),
        ("out of order", "## Final Response\n\nMeasles.\n\n## Thinking\n\nFever."),
        ("thinking twice", "## Thinking\n\nFever.\n\n## Thinking\n\nRash.\n\n## Final Response\n\nMeasles."),
        ("response twice", "## Thinking\n\nFever.\n\n## Final Response\n\nMeasles.\n\n## Final Response\n\nMumps."),
        ("both twice", f"{GOOD}\n\n{GOOD}"),
        ("a heading line in a code fence", render("```\n## Final Response\n```", "measles")),
        ("an indented heading begins the response", "## Thinking\n\nFever.\n\n## Final Response\n ## Thinking"),
        ("an indented heading begins the thinking", "## Thinking\n\n  ## Final Response\n\n## Final Response\n\nMumps"),
        ("empty thinking", "## Thinking\n\n## Final Response\n\nMeasles."),
        ("empty response", "## Thinking\n\nFever.\n\n## Final Response\n\n"),
        ("response cut before it began", "## Thinking\n\nFever.\n\n## Final Response"),
        ("thinking of signs only", "## Thinking\n\n...\n\n## Final Response\n\nMeasles."),
        ("opener instead of a response", "## Thinking\n\nFever.\n\n## Final Response\n\n:"),
        ("Chinese opener", "## Thinking\n\n发热。\n\n## Final Response\n\n：。"),
        ("bold nothing", "## Thinking\n\nFever.\n\n## Final Response\n\n**"),
        ("words before the thinking", f"Sure!\n\n{GOOD}"),
        ("wrong level", GOOD.replace("## ", "### ")),
        ("wrong case", GOOD.lower()),
        ("Chinese headings", "## 思考\n\n发热。\n\n## 最终回答\n\n麻疹。"),
    ],
    ids=lambda text: text if len(text) < 40 and "\n" not in text else "",
)
def test_a_reply_without_the_form_is_refused(why: str, reply: str) -> None:
    assert parse(reply) is None, why
    assert not is_well_formed(reply)


@pytest.mark.parametrize(
    "reply",
    [
        f"\n\n  {GOOD}\n\n",
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n\n", "\n"),
        GOOD.replace("## Thinking", "## Thinking  ").replace("## Final Response", "## Final Response\t"),
    ],
    ids=["outer white space", "Windows line ends", "no empty lines", "trailing white space"],
)
def test_white_space_does_not_matter(reply: str) -> None:
    assert parse(reply) == Sections("Fever and rash.", "It is measles.")


@pytest.mark.parametrize("answer", ["5", "麻疹", "é", "B"])
def test_one_letter_or_digit_of_any_script_is_enough(answer: str) -> None:
    assert parse(render("想", answer)) == Sections("想", answer)
