"""Reading rules: which option letters a student's reply states. Named, so that a score says how its replies were read.

`strict`        every statement of an answer names the same option or options, by letter or by the exact text; nothing
                is left open, doubted or taken back. What this reads can be trusted; the rest is unread.
`last_stated`   the last statement; where there is none, the last option that is mentioned and not denied.
`first_stated`  the first statement; where there is none, the first option that is mentioned and not denied.
                (Both: a reply that mentions every option has only listed them.)

A reading is the letters sorted ("B", "ACD"), None where there is none. It never holds a letter that is no option.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from lite_huatuo import thinking_marks
from lite_huatuo.evaluation import statements
from lite_huatuo.evaluation.naming import Options, clean, prepared
from lite_huatuo.response_format import RESPONSE_HEADING, THINKING_HEADING, parse

MOST = 20_000  # characters of a final response that are read: its end
Rule = Callable[[str, Options], "str | None"]


def read(rule: str, reply: str, options: Mapping[str, str]) -> str | None:
    """Return what a rule (one of RULES) reads from the final response of a reply."""
    return RULES[rule](clean(final_response(reply)[-MOST:]), prepared(tuple(options.items())))


def final_response(reply: str) -> str:
    """Return the part of a reply that answers: the final response of a well-formed one, what follows the last heading
    of others, else all of it; without its thinking, by whatever marks (see thinking_marks).

    "" where a reply began to think and never came to an end, or begins with a mark that nobody here knows. A model that
    was not trained on the form (the base, an endpoint) is so read as well as a student.
    """
    return answering(reply).answer


def answering(reply: str) -> thinking_marks.Split:
    """Return `final_response` with what was wrong with it: its `kind` names an unknown mark, an unclosed one."""
    sections = parse(reply)
    if sections is not None:
        return thinking_marks.split(sections.final_response)
    heading = list(re.finditer(rf"^{RESPONSE_HEADING}[ \t]*$", reply, re.MULTILINE))
    if heading:
        return thinking_marks.split(reply[heading[-1].end() :])
    told = thinking_marks.split(reply)
    if told.answer.startswith(THINKING_HEADING):
        return thinking_marks.Split("", THINKING_HEADING, "it never came to a final response", "no final response")
    return told


def _strict(text: str, options: Options) -> str | None:
    found = statements.final(text, statements.find(text, options))
    firm = [statement for statement in found if statement.firm and not statement.broken]
    if not firm or len({statement.letters for statement in firm}) > 1:
        return None
    reading, first, last = firm[0].letters, min(s.start for s in firm), max(s.end for s in firm)
    if any(statement.broken and statement.end >= first for statement in found):
        return None  # left open or contradicted once it was said
    if any(statement.letters != reading and statement.end > last for statement in found):
        return None
    if statements.taken_back(text, last):
        return None
    if all(statement.soft for statement in firm):
        later = {letter for start, _, letter in options.mentions(text) if start >= last}
        if later - set(reading):
            return None  # a sentence about the case, and another option after it
    return reading


def _stated(text: str, options: Options) -> list[str]:
    """Return what is stated, in order: firm statements, else doubted ones; where nothing is, what is mentioned."""
    found = statements.find(text, options)
    if found:
        whole = [statement for statement in found if not statement.broken]
        firm = [statement.letters for statement in whole if statement.firm]
        return firm or [statement.letters for statement in whole]
    mentioned = [letters for _, letters in statements.marked(text, options)]
    listed = len(options.letters) > 2 and set(options.letters) <= set("".join(mentioned))
    return [] if listed else mentioned


def _last_stated(text: str, options: Options) -> str | None:
    found = _stated(text, options)
    return found[-1] if found else None


def _first_stated(text: str, options: Options) -> str | None:
    found = _stated(text, options)
    return found[0] if found else None


RULES: dict[str, Rule] = {"strict": _strict, "last_stated": _last_stated, "first_stated": _first_stated}
