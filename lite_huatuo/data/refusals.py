"""What an endpoint's refusal means, by the evidence: try again, this request fails alone, or nothing will work.

The evidence is the status, the code, the words, and whether the key and the address have worked before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Meaning = Literal["again", "record", "stop", "doubt"]

REPEATABLE = {408, 409, 425, 429}  # and 5xx
REQUEST_AT_FAULT = {400, 413, 422}
CENSORED = {403, 451}  # a wrong key, or one question that the endpoint will not hear
PROFILE_AT_FAULT = {"unsupported_parameter", "unsupported_value", "unknown_parameter"}
NO_CREDIT = {"insufficient_quota", "insufficient_credits", "insufficient_balance", "billing_hard_limit_reached"}
# Codes that are words, as answers with status 200 bring them.
STATUS_OF = {
    **dict.fromkeys(("invalid_api_key", "authentication_error", "unauthorized", "unauthenticated"), 401),
    **dict.fromkeys(NO_CREDIT, 402),
    **dict.fromkeys(("permission_error", "permission_denied", "forbidden"), 403),
    **dict.fromkeys(("model_not_found", "not_found_error", "not_found"), 404),
    **dict.fromkeys(("rate_limit_exceeded", "rate_limit_error", "resource_exhausted", "too_many_requests"), 429),
    **dict.fromkeys(("invalid_request_error", "bad_request", "invalid_argument", "invalid_prompt"), 400),
    **dict.fromkeys(("content_policy_violation", "content_filter", "data_inspection_failed", *PROFILE_AT_FAULT), 400),
}
MODERATION = re.compile(
    r"moderat|content[ _-]?(?:polic|filter|violat|safety)|usage (?:polic|guideline)|safety|unsafe|flagged|harmful|"
    r"prohibited|inappropriate|sensitive|violat|self[ _-]harm|sexual|hate[ _-]speech|legal reasons|copyright|"
    r"data_?inspection|敏感|违规|不当|审核|安全|违反",
    re.IGNORECASE,
)
KEY = re.compile(r"api[ _-]?key|credential|unauthori[sz]ed|authenticat|access token|account", re.IGNORECASE)
WRONG_KEY = re.compile(r"(?:incorrect|invalid|wrong|expired|no such|unknown) api[ _-]?key|api key not valid", re.I)
WHAT_TO_DO = {
    401: "the key is missing or wrong; set the environment variable {key_env}",
    402: "the account has no credit",
    403: "the key may not use this model here",
    404: "no such model or address; check model ({model}) and base_url in the profile",
    451: "the endpoint may not serve this here; choose another one",
}
_NO_MORE = "the account has no credit left"


class Told(NamedTuple):
    """What an error body says: its code and words, "" where it has none; `status` where the code stands for one."""

    code: str
    words: str
    status: int | None


def told(body: Any) -> Told:
    """Return what a body says of its error, whatever the shape: {"error": {…}}, {"error": "…", "code": …}, {"detail":
    …}, {"errors": […]}, {"base_resp": {…}}, a list of one, or a text."""
    if isinstance(body, list) and body:
        return told(body[0])
    if not isinstance(body, Mapping):
        return Told("", str(body) if body else "", None)
    inner = next((body[name] for name in ("error", "base_resp", "errors", "detail") if body.get(name)), None)
    if isinstance(inner, list):
        inner = inner[0] if inner else None
    fields = inner if isinstance(inner, Mapping) else body
    names = ("code", "status_code", "error_code", "status", "type")
    codes = [fields[name] for name in names if isinstance(fields.get(name), str | int) and fields.get(name) != ""]
    words: list[Any] = [inner] if isinstance(inner, str) else []
    words += [fields.get(name) for name in ("message", "msg", "status_msg", "error_msg", "detail", "reason")]
    spoken = [word for word in words if isinstance(word, str) and word]
    if isinstance(inner, str) and isinstance(body.get("code"), str):
        spoken.append(body["code"])  # "The caller does not have permission" beside the reason
    status = next((found for found in map(_status, codes) if found), None)
    code = next((code for code in codes if isinstance(code, str) and not code.isdecimal()), "")
    return Told(code if len(code) < 60 else "", ": ".join(dict.fromkeys(spoken)), status)


def _status(code: Any) -> int | None:
    """Return the HTTP status that a code is or stands for."""
    if isinstance(code, str):
        return int(code) if re.fullmatch("[3-5][0-9]{2}", code) else STATUS_OF.get(code.strip().lower())
    return int(code) if 300 <= code < 600 else None


def meaning(status: int, code: str, words: str, *, works: bool) -> Meaning:
    """Return what a refusal means. `works`: the same key and model have brought a reply, or a job took the request.

    "doubt" is a 403 or 451 that says nothing and of a key that was never seen to work: it is of this request where
    another one under way succeeds, and of all where none does.
    """
    name = code.lower()
    if name in NO_CREDIT or status in (401, 402) or name in PROFILE_AT_FAULT:
        return "stop"
    if status in REPEATABLE or status >= 500:
        return "again"
    if status in REQUEST_AT_FAULT:
        return "stop" if WRONG_KEY.search(words) else "record"
    said = f"{code} {words}"
    if status in CENSORED and MODERATION.search(said):
        return "record"
    if not 400 <= status < 500 or (status in CENSORED and KEY.search(said)):
        return "stop"
    if works:
        return "record"
    return "doubt" if status in CENSORED else "stop"


def advice(status: int, code: str, *, key_env: str | None, model: str) -> str:
    """Return what to do about a refusal that stops all."""
    name = code.lower()
    if name in NO_CREDIT:
        return _NO_MORE
    if name in PROFILE_AT_FAULT:
        return "correct what the profile says the model accepts"
    if 300 <= status < 400:
        return (
            "the endpoint wants to send us elsewhere, and the key goes nowhere else; set base_url to its real address"
        )
    hint = WHAT_TO_DO.get(401 if status in REQUEST_AT_FAULT else status, "see the endpoint's documentation")
    return hint.format(key_env=key_env or "named in the profile's key_env", model=model)
