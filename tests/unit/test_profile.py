"""Model profiles: the shipped ones, overrides, what is refused, prices, and the day a model retires."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from lite_huatuo.data import profile
from lite_huatuo.data.profile import Prices, Usage
from lite_huatuo.errors import RecipeError

REPOSITORY = Path(profile.__file__).parents[2]


@pytest.mark.parametrize("name", ["gpt-4o", "gpt-6-luna", "local"])
def test_every_shipped_profile_is_whole_and_bears_its_name(name: str) -> None:
    assert profile.load(name).name == name
    assert profile.load(name, ("concurrency=3", "prices.output=7")).concurrency == 3


def test_the_shipped_profiles_are_these_and_are_packaged() -> None:
    assert profile.names() == ["gpt-4o", "gpt-6-luna", "local"]
    setup = (REPOSITORY / "setup.cfg").read_text("utf-8")
    assert "    lite_huatuo.data.profiles\n" in setup
    assert "lite_huatuo.data.profiles = *.yaml\n" in setup


def test_no_model_of_a_shipped_profile_is_named_in_the_code() -> None:
    models = {profile.load(name).model for name in profile.names()} - {"default"}
    for path in (REPOSITORY / "lite_huatuo" / "data").rglob("*.py"):
        text = path.read_text("utf-8")
        assert [model for model in models if f'"{model}"' in text] == [], path


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmodel: m\nbase_url: http://h:1/v1\nprices: {input: 1, output: 2e-1}\n")
    assert profile.load(str(path)).prices == Prices(input=1.0, output=0.2)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"gpt-4: no such model profile or file; did you mean gpt-4o\?"):
        profile.load("gpt-4")
    with pytest.raises(RecipeError, match="there are gpt-4o, gpt-6-luna, local; or give the path of a YAML file"):
        profile.load("zzz")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("concurency=2", "concurency: unknown key; did you mean concurrency?"),
        ("concurrency=0", "concurrency: input should be greater than or equal to 1"),
        ("prices.input=-1", "prices.input: input should be greater than or equal to 0"),
        ("base_url=localhost:8000", "base_url: 'localhost:8000' is no web address"),
        ("base_url=http://user:secret@host/v1", "put the key into the environment (key_env)"),
        ("retires=soon", "retires: 'soon' is no day"),
        ("reasoning_effort=huge", "reasoning_effort: 'huge' is not in reasoning_efforts (none: it takes no"),
        ("token_field=tokens", "token_field: input should be"),
        ("api_key=sk-1", "api_key: unknown key"),
    ],
)
def test_a_wrong_value_is_told(override: str, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        profile.load("local", (override,))
    assert str(caught.value).startswith("profiles/local.yaml: ")
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_default_temperature_needs_a_model_that_takes_one() -> None:
    assert profile.load("local", ("default_temperature=0.7",)).default_temperature == 0.7
    with pytest.raises(RecipeError, match="temperature is not accepted"):
        profile.load("gpt-6-luna", ("default_temperature=0.7",))


def test_prices_by_kind_of_token() -> None:
    prices = Prices(input=2.0, cached_input=0.5, cache_write=3.0, output=10.0, batch_discount=0.5)
    usage = Usage(input=1_000_000, cached=400_000, written=100_000, output=200_000)
    assert prices.dollars(usage) == pytest.approx(0.5 * 2.0 + 0.4 * 0.5 + 0.1 * 3.0 + 0.2 * 10.0)
    assert prices.dollars(usage, batch=True) == pytest.approx(prices.dollars(usage) / 2)
    assert prices.worst(1_000_000, 200_000) == pytest.approx(3.0 + 2.0)  # all input at the dearest rate
    plain = Prices(input=2.0, output=10.0)
    assert plain.dollars(usage) == pytest.approx(2.0 + 2.0)
    assert plain.dollars(usage) <= plain.worst(usage.input, usage.output)


@pytest.mark.parametrize(
    ("today", "told"),
    [
        ("2026-06-01", None),
        ("2026-12-15", "leaves https://api.openai.com/v1 in 30 days, on 2027-01-14; choose another profile"),
        ("2027-01-14", "left https://api.openai.com/v1 on 2027-01-14"),
    ],
)
def test_a_model_that_retires_is_told_in_time(today: str, told: str | None) -> None:
    warning = profile.load("gpt-4o").retirement(datetime.date.fromisoformat(today))
    assert (warning is None) == (told is None)
    assert (told or "") in (warning or "")
    assert profile.load("local").retirement(datetime.date(2100, 1, 1)) is None
