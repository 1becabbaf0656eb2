"""Model profiles: what a chat endpoint accepts, costs and allows. Models retire: YAML names them, code never does."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from lite_huatuo import schema
from lite_huatuo.schema import Section

Dollars = Annotated[float, Field(ge=0)]
PerMinute = Annotated[int, Field(ge=1)]

FOLDER = "lite_huatuo.data.profiles"  # the package of the shipped ones
WARN_DAYS = 60  # before a model retires


class Usage(Section):
    """Tokens of one call. `cached` and `written` (to the endpoint's cache) are parts of `input`."""

    input: int = 0
    cached: int = 0
    written: int = 0
    output: int = 0


class Prices(Section):
    """Dollars per million tokens; a batch costs `batch_discount` times as much."""

    input: Dollars
    cached_input: Dollars | None = None  # None: as input
    cache_write: Dollars | None = None  # input that the endpoint writes to its cache; None: as input
    output: Dollars
    batch_discount: Annotated[float, Field(ge=0, le=1)] = 1.0

    def dollars(self, usage: Usage, *, batch: bool = False) -> float:
        """Return what a call with this usage costs."""
        cached = self.input if self.cached_input is None else self.cached_input
        write = self.input if self.cache_write is None else self.cache_write
        fresh = usage.input - usage.cached - usage.written
        total = fresh * self.input + usage.cached * cached + usage.written * write + usage.output * self.output
        return total / 1e6 * (self.batch_discount if batch else 1.0)

    def worst(self, input_tokens: int, output_tokens: int, *, batch: bool = False) -> float:
        """Return the most that a call with at most so many tokens can cost."""
        dearest = max(self.input, self.cached_input or 0.0, self.cache_write or 0.0)
        total = input_tokens * dearest + output_tokens * self.output
        return total / 1e6 * (self.batch_discount if batch else 1.0)


class Profile(Section):
    """One model at one endpoint."""

    name: str
    model: str
    base_url: str
    api: Literal["chat", "responses"] = "chat"  # chat completions, or OpenAI's Responses API
    key_env: str | None = None  # the environment variable that holds the key; None: the endpoint wants none
    retires: str | None = None  # the day the endpoint stops serving the model, YYYY-MM-DD
    token_field: Literal["max_completion_tokens", "max_tokens"] = "max_tokens"
    json_schema: Literal["schema", "object", "none"] = "none"  # how far the endpoint holds a reply to a schema
    temperature: bool = True  # accepted?
    default_temperature: Annotated[float, Field(ge=0, le=2)] | None = None  # sent where a request names none
    seed: bool = False  # accepted?
    reasoning_effort: str | None = None  # the effort to ask for; None: the field is not sent
    reasoning_efforts: list[str] = Field(default_factory=list)  # what the model accepts; empty: no such field
    whole_reasons: list[str] = Field(default_factory=list)  # finish reasons of whole replies beside the known ones
    reasoning_tokens: Annotated[int, Field(ge=0)] = 0  # added to a request's max_tokens, which count the reasoning too
    prices: Prices
    requests_per_minute: PerMinute | None = None  # None: no limit
    tokens_per_minute: PerMinute | None = None
    concurrency: PerMinute = 16  # calls at one time
    timeout: Annotated[float, Field(gt=0)] = 300.0  # seconds for one call
    extra: dict[str, Any] = Field(default_factory=dict)  # more fields of the request's body

    @field_validator("base_url")
    @classmethod
    def _a_web_address(cls, value: str) -> str:
        if "@" in value or "?" in value or "#" in value:  # and what it holds is not repeated
            raise ValueError(
                "base_url: holds a user name, password or query; put the key into the environment (key_env)"
            )
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"base_url: {value!r} is no web address; write it like http://127.0.0.1:8000/v1")
        return value

    @field_validator("retires")
    @classmethod
    def _a_day(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                datetime.date.fromisoformat(value)
            except ValueError:
                raise ValueError(f"retires: {value!r} is no day; write it like 2027-01-14") from None
        return value

    @model_validator(mode="after")
    def _an_effort_the_model_knows(self) -> Profile:
        if self.reasoning_effort is not None and self.reasoning_effort not in self.reasoning_efforts:
            known = ", ".join(self.reasoning_efforts) or "none: it takes no reasoning effort"
            raise ValueError(f"reasoning_effort: {self.reasoning_effort!r} is not in reasoning_efforts ({known})")
        if self.default_temperature is not None and not self.temperature:
            raise ValueError("default_temperature: set, but temperature is not accepted (temperature: false)")
        if self.api == "responses" and self.seed:
            raise ValueError("seed: the Responses API takes none; set it to false, or api to chat")
        return self

    @property
    def whole(self) -> tuple[str, ...]:
        """Finish reasons that this endpoint gives whole replies, beside the known ones ("none": it gives none)."""
        return tuple(self.whole_reasons)

    def retirement(self, today: datetime.date) -> str | None:
        """Return a warning where the endpoint has dropped the model or soon will, else None."""
        if self.retires is None:
            return None
        days = (datetime.date.fromisoformat(self.retires) - today).days
        if days > WARN_DAYS:
            return None
        when = f"left {self.base_url} on" if days <= 0 else f"leaves {self.base_url} in {days} days, on"
        return f"{self.name}: {self.model} {when} {self.retires}; choose another profile"


def names() -> list[str]:
    """Return the names of the shipped profiles."""
    return schema.names(FOLDER)


def load(name_or_path: str, overrides: tuple[str, ...] = ()) -> Profile:
    """Load a profile by shipped name or path, with `key=value` overrides, and check it whole; RecipeError tells all."""
    where, source = schema.text(name_or_path, FOLDER, "model profile")
    return schema.check(Profile, schema.read(source, where, overrides), where)
