"""From a recipe's verifier section to a verifier: what is made, what is refused, and how mistakes are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lite_huatuo import recipe as recipes
from lite_huatuo import schema
from lite_huatuo.errors import APIError, BackendError, RecipeError
from lite_huatuo.recipe import VerifierSection
from lite_huatuo.verifier import choose
from lite_huatuo.verifier.api import ApiVerifier
from lite_huatuo.verifier.base import Item
from lite_huatuo.verifier.ensemble import EnsembleVerifier
from lite_huatuo.verifier.exact import ExactVerifier

RECIPE = {"name": "r", "base": {"model": "m"}, "data": {"sft": "s", "problems": "p"}}


def section(**values: Any) -> dict[str, Any]:
    """Return a section as a recipe would hand it on."""
    return schema.check(VerifierSection, values, "test").model_dump()


def refused(**values: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        recipes.check({**RECIPE, "base": {"model": "m", "max_length": 1812}, "verifier": values}, "r.yaml")
    return str(caught.value)


def test_exact_needs_nothing() -> None:
    assert isinstance(choose.make("exact"), ExactVerifier)
    assert isinstance(choose.make(section()), ExactVerifier)
    choose.check("exact")


def test_an_api_judge_has_the_sections_settings(tmp_path: Path) -> None:
    values = section(kind="api", profile="local", store=str(tmp_path / "s.sqlite"), budget=2.0, form="word")
    choose.check(values)
    made = choose.make(values)
    assert isinstance(made, ApiVerifier)
    assert (made.profile.name, made.path, made.budget, made.form) == ("local", tmp_path / "s.sqlite", 2.0, "word")
    assert list(tmp_path.iterdir()) == [], "the store is opened before anything is asked"


def test_an_ensemble_is_made_of_whole_sections(tmp_path: Path) -> None:
    store = str(tmp_path / "s.sqlite")
    members = [{"kind": "exact"}, {"kind": "api", "profile": "local", "store": store}]
    values = section(kind="ensemble", members=members, mode="weighted", weights=[1.0, 3.0], threshold=0.5)
    choose.check(values)
    made = choose.make(values)
    assert isinstance(made, EnsembleVerifier)
    assert [type(member) for member in made.members] == [ExactVerifier, ApiVerifier]
    assert (made.mode, made.weights, made.threshold) == ("weighted", [0.25, 0.75], 0.5)
    same = choose.make(section(kind="ensemble", members=[{}, {}]))
    assert same.verify([Item("?", "rest", "rest")])[0].correct is True


def test_what_cannot_be_made_is_told_without_making_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"kind": "api", "profile": "gpt-6-luna"}, APIError, "set the environment variable"),
        ({"kind": "api", "profile": "gpt-6-lunar"}, RecipeError, "did you mean gpt-6-luna"),
        ({"kind": "adapter", "adapter": str(tmp_path)}, BackendError, "verifier.adapter: .* no adapter here"),
        ({"kind": "classifier", "model": str(tmp_path), "template": "{response} {ground_truth}"}, BackendError,
         "verifier.model: .* no model here"),
        ({"kind": "classifier", "model": "x/y", "template": "{response}"}, BackendError, "verifier.template"),
    ]  # fmt: skip
    for values, error, words in cases:
        for whole in (values, {"kind": "ensemble", "members": [{}, values]}):
            with pytest.raises(error, match=words):
                choose.check(section(**whole))


def test_an_adapter_judges_on_a_base_and_nowhere_else(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="the student's own base"):
        choose.make(section(kind="adapter", adapter=str(tmp_path)))
    one, other = {"kind": "adapter", "adapter": "/a"}, {"kind": "adapter", "adapter": "/b"}
    assert choose.adapter_folder(section(kind="ensemble", members=[{}, one, one])) == Path("/a")
    assert choose.adapter_folder(section()) is None
    with pytest.raises(BackendError, match="one adapter can judge, not 2"):
        choose.adapter_folder(section(kind="ensemble", members=[one, other]))


def test_a_section_without_what_its_kind_needs_is_refused() -> None:
    assert "r.yaml: verifier.profile: missing; kind api needs profile" in refused(kind="api")
    assert "verifier.model: missing; kind classifier needs model and template" in refused(kind="classifier")
    assert "verifier.members: missing" in refused(kind="ensemble")
    assert "verifier.weights: 1 for 2 members" in refused(kind="ensemble", members=[{}, {}], weights=[1.0])


def test_mistakes_inside_members_are_told_with_their_place() -> None:
    told = refused(kind="ensemble", members=[{}, {"kind": "exact", "treshold": 0.3}])
    assert "verifier.members.1.treshold: unknown key; did you mean threshold?" in told
    told = refused(kind="ensemble", members=[{"kind": "ensemble", "members": [{"threshold": "much"}]}])
    assert "verifier.members.0.members.0.threshold: input should be a valid number, not 'much'" in told


def test_numbers_inside_members_are_read_as_anywhere_else() -> None:
    text = "kind: ensemble\nmembers: [{threshold: 5e-1}, {kind: ensemble, members: [{accept_at: 9e-1}]}]\n"
    found = schema.check(VerifierSection, schema.read(text, "test"), "test")
    assert found.members[0].threshold == 0.5
    assert found.members[1].members[0].accept_at == 0.9
