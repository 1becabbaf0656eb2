"""The line to a chat endpoint: the key, a client that goes to the profile's address only, and what broke on the way."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import os
import time
from collections.abc import Iterator
from typing import Any

import openai

from lite_huatuo.data.completion import Fault
from lite_huatuo.data.profile import Profile
from lite_huatuo.errors import APIError

LONGEST_WAIT = 3600.0  # seconds that a Retry-After may ask for


def secret(profile: Profile) -> str | None:
    """Return the key from the environment, None where the profile needs none; APIError where it is not set."""
    if profile.key_env is None:
        return None
    key = os.environ.get(profile.key_env, "").strip()
    if not key:
        raise APIError(f"{profile.name}: no key; set the environment variable {profile.key_env}")
    return key


def connect(profile: Profile, key: str) -> openai.AsyncOpenAI:
    """Return an openai client that speaks to the profile's address only, retries nothing and follows no redirect."""
    # Proxies of the environment are used for https alone: over http a proxy would see the key.
    proxies = profile.base_url.startswith("https:")
    try:
        http = openai.DefaultAioHttpClient(follow_redirects=False, trust_env=proxies)  # half the processor time
    except RuntimeError:  # aiohttp, or what joins it to the openai package, is not installed
        http = openai.DefaultAsyncHttpxClient(follow_redirects=False, trust_env=proxies)
    with _without_openai_variables():
        return openai.AsyncOpenAI(
            api_key=key, base_url=profile.base_url, max_retries=0, timeout=profile.timeout, http_client=http
        )


@contextlib.contextmanager
def _without_openai_variables() -> Iterator[None]:
    """Hide OPENAI_BASE_URL, OPENAI_CUSTOM_HEADERS and their kin: what is sent where is for the profile alone to say."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("OPENAI_")}
    try:
        yield
    finally:
        os.environ.update(hidden)


def retry_after(headers: Any) -> float | None:
    """Return the seconds a 429 or 503 asks to wait, a number or a date; None where it says nothing that can be read."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(TypeError, ValueError):
            seconds = float(headers.get(name)) * unit
            if 0.0 <= seconds < float("inf"):
                return min(seconds, LONGEST_WAIT)
    with contextlib.suppress(TypeError, ValueError):
        day = email.utils.parsedate_to_datetime(headers.get("retry-after"))
        return min(max(0.0, day.timestamp() - time.time()), LONGEST_WAIT)
    return None


def broken_line(error: BaseException, profile: Profile) -> Fault:
    """Return what happened to the connection, from its causes: over aiohttp the openai package takes a connection
    that was refused or cut for a timeout."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    names = [type(cause).__name__ for cause in causes]
    if any(name == "ConnectError" or name.startswith("ClientConnector") for name in names):
        return Fault(f"no connection to {profile.base_url} ({names[-1]})", unreachable=True)
    if any(isinstance(cause, (TimeoutError, asyncio.TimeoutError)) for cause in causes):
        return Fault(f"no answer within {profile.timeout:g} seconds", billed=True)
    return Fault(f"the connection to {profile.base_url} broke ({names[-1]})", billed=True)
