"""Fill in a template. `VERSION` goes into the provenance of whatever was written with these prompts."""

from __future__ import annotations

import re
from functools import cache
from string import Template

from lite_huatuo.prompts import en, zh

# Raised whenever any template or schema changes; tests/unit/test_prompts.py holds their hash beside it.
VERSION = "2"
LANGUAGES = {"en": en.TEMPLATES, "zh": zh.TEMPLATES}


def templates(language: str) -> dict[str, str]:
    """Return the templates by name; a language without its own gets the English ones, which ask for the question's."""
    return LANGUAGES.get(language, en.TEMPLATES)


def render(name: str, language: str, **values: str) -> str:
    """Return the template with its values put in literally: nothing in a value is read as a template.

    The values must be exactly the template's own; another set is our mistake.
    """
    wanted = fields(templates(language)[name])
    assert set(values) == wanted, f"prompt {name} takes {sorted(wanted)}, not {sorted(values)}"
    return Template(templates(language)[name]).substitute(values)


@cache
def fields(template: str) -> frozenset[str]:
    """Return the names of a template's values."""
    return frozenset(re.findall(r"\$\{(\w+)\}", template))
