"""Prompts: every language has the same templates with the same values, values are put in literally, and nothing changes
without a new version.
"""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_huatuo.prompts.render import LANGUAGES, VERSION, fields, render, templates
from lite_huatuo.prompts.schemas import SCHEMAS
from lite_huatuo.records import detect_language
from tests import scripted_teacher

SENT = [
    (name, language) for language in LANGUAGES for name in templates(language) if name not in scripted_teacher.PARTS
]
# Of all templates and schemas. Where this fails, raise VERSION and write the new digest here.
PUBLISHED = ("2", "096397deea551bc4")


def test_a_change_of_any_text_is_a_new_version() -> None:
    content = json.dumps([LANGUAGES, SCHEMAS], ensure_ascii=False, sort_keys=True)
    assert (VERSION, hashlib.sha256(content.encode()).hexdigest()[:16]) == PUBLISHED


def test_languages_have_the_same_templates_with_the_same_values() -> None:
    english = {name: fields(text) for name, text in templates("en").items()}
    assert {name: fields(text) for name, text in templates("zh").items()} == english
    assert all(english[name] for name in english)


@pytest.mark.parametrize(("name", "language"), SENT)
def test_a_template_asks_for_the_form_it_is_read_in(name: str, language: str) -> None:
    text = templates(language)[name]
    assert ("JSON" in text) == (name in SCHEMAS or name == "rewrite")  # the rewriting says: no JSON
    for key in SCHEMAS.get(name, {"required": []})["required"]:
        assert f'"{key}"' in text, f"{language} {name} does not say that the reply has {key}"
    assert detect_language(text) == language
    assert text == text.strip()


def test_schemas_are_strict_all_the_way_down() -> None:
    def walk(schema: dict) -> None:
        if schema["type"] == "object":
            assert schema["additionalProperties"] is False
            assert schema["required"] == list(schema["properties"])
            for inner in schema["properties"].values():
                walk(inner)
        elif schema["type"] == "array":
            walk(schema["items"])

    assert set(SCHEMAS) < set(templates("en"))
    for schema in SCHEMAS.values():
        walk(schema)


@pytest.mark.parametrize("name", ["first", "verify", "rewrite", "respond", "backtracking", "exploring", "correction"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_only_verifying_and_the_label_guided_round_see_the_ground_truth(name: str, language: str) -> None:
    assert ("ground_truth" in fields(templates(language)[name])) == (name == "verify")


@settings(max_examples=100)
@given(
    st.sampled_from(SENT),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["$x ${question} {0} %s \\1", ""]),
)
def test_values_are_put_in_literally(which: tuple[str, str], value: str, trap: str) -> None:
    name, language = which
    text = render(name, language, **{key: f"<<{key}{trap}{value}>>" for key in fields(templates(language)[name])})
    for key in fields(templates(language)[name]):
        assert f"<<{key}{trap}{value}>>" in text


def test_a_missing_or_unknown_value_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="takes"):
        render("first", "en")
    with pytest.raises(AssertionError, match="takes"):
        render("first", "en", question="?", thoughts="")


def test_a_language_without_templates_gets_the_english_ones() -> None:
    assert render("first", "es", question="¿Qué?") == render("first", "en", question="¿Qué?")
    assert "language of the question" in render("first", "es", question="¿Qué?")


@pytest.mark.parametrize(("name", "language"), SENT)
def test_the_scripted_teacher_knows_every_prompt(name: str, language: str) -> None:
    values = {key: f"some {key} text\nin lines" for key in fields(templates(language)[name])}
    assert scripted_teacher.recognise(render(name, language, **values)) == (name, language, values)
