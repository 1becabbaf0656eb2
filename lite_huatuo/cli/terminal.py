"""The one way texts reach the terminal. What comes from data, models, endpoints or file names must not steer it:
control characters are shown, not sent, and rich reads no markup in them.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

# Control characters but tab and line end, half characters (which no terminal's encoding has), and what turns the
# direction of the text around it.
_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")

_AS_JSON = "lite_huatuo"  # the name of an error handler


def harmless(text: str) -> str:
    """Return a text with what could steer a terminal written as \\u001b and its like; JSON stays the JSON it was."""
    return _STEERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def show_all() -> None:
    """Let stdout and stderr write as \\u2192 and its like what their encoding lacks, instead of failing at it."""
    codecs.register_error(_AS_JSON, _as_json)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_AS_JSON)


def _as_json(error: UnicodeError) -> tuple[str, int]:
    """Write what cannot be encoded as JSON would, so that JSON stays JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text to stdout, or to stderr."""
    click.echo(harmless(text), err=err, nl=nl)


def console(width: int | None = None, *, stderr: bool = False) -> Console:
    """Return a rich console for tables and bars; in plain strings, cells and titles it reads no markup.

    `width` is the most columns it takes: a narrower terminal, or COLUMNS, makes it narrower.
    """
    from rich.console import Console as Rich

    class Harmless(Rich):
        """Takes strings as they are written."""

        def render_str(self, text: str, **options: Any) -> Any:
            """Return the text to print for a string."""
            return super().render_str(harmless(text), **{**options, "markup": False, "emoji": False})

    if width is not None:
        width = min(width, shutil.get_terminal_size((width, 24)).columns)
    return Harmless(width=width, stderr=stderr, highlight=False, markup=False, emoji=False)
