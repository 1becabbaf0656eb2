"""Judged pairs: what is judged, made up, left out and split, and that the manifest tells it."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from lite_huatuo import jsonl
from lite_huatuo.data import profile as profiles
from lite_huatuo.data import sources
from lite_huatuo.data.limits import Retries
from lite_huatuo.errors import APIError, RecipeError, RecordError
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.response_format import render
from lite_huatuo.verifier import acceptance, build
from lite_huatuo.verifier.base import Item, Verdict
from lite_huatuo.verifier.build import Built, Reply
from lite_huatuo.verifier.exact import ExactVerifier
from lite_huatuo.verifier.sampling import sample
from tests.scripted_server import ScriptedServer

QUICK = Retries(tries=2, first=0.001, longest=0.002)


@pytest.fixture(scope="module")
def problems() -> list[VerifiableProblem]:
    return sources.load_problems("shipped:problems_en")[:60] + sources.load_problems("shipped:problems_zh")[:15]


@pytest.fixture(scope="module")
def replies(problems: list[VerifiableProblem]) -> list[Reply]:
    """Three replies a problem: right in half the cases, one of them equal to another but for case."""
    rng = random.Random(0)
    found = []
    for problem in problems:
        says = problem.ground_truth if rng.random() < 0.5 else "something else"
        found += [
            Reply(problem, f"The answer is {says}.", 0.3),
            Reply(problem, f"the  answer is {says}.", 0.7),
            Reply(problem, f"It must be {says}, I would say.", 1.0),
        ]
    return found


@pytest.fixture(scope="module")
def built(problems: list[VerifiableProblem], replies: list[Reply]) -> Built:
    return build.build(problems, replies, ExactVerifier(), test_share=0.3, seed=1)


def test_each_split_holds_as_many_right_as_wrong(built: Built) -> None:
    for pairs in built.pairs.values():
        assert len(pairs) > 20
        assert sum(pair.label for pair in pairs) * 2 == len(pairs)


def test_no_question_is_in_two_splits(built: Built) -> None:
    train, test = ({pair.question for pair in built.pairs[name]} for name in build.SPLITS)
    assert not train & test
    assert 0.1 < len(test) / len(train | test) < 0.5


def test_replies_have_the_judges_label_and_made_up_pairs_their_own(built: Built) -> None:
    pairs = [pair for found in built.pairs.values() for pair in found]
    for pair in pairs:
        if pair.origin == build.REPLY:
            item = Item(pair.question, pair.final_response, pair.ground_truth)
            assert ExactVerifier().verify([item])[0].correct is pair.label
            assert pair.temperature in (0.3, 1.0), "of equal replies the first is kept"
        else:
            assert pair.label is (pair.origin == build.FORM)
            assert pair.attack
    assert {pair.origin for pair in pairs} == {build.REPLY, build.ATTACK, build.FORM}
    assert len({pair.attack for pair in pairs if pair.origin == build.ATTACK}) >= 5
    assert {pair.language for pair in pairs} == {"en", "zh"}
    assert len({pair.id for pair in pairs}) == len(pairs)


def test_the_same_input_gives_the_same_pairs_and_another_seed_others(
    problems: list[VerifiableProblem], replies: list[Reply], built: Built
) -> None:
    again = build.build(problems, replies, ExactVerifier(), test_share=0.3, seed=1)
    assert again == built
    assert build.build(problems, replies, ExactVerifier(), test_share=0.3, seed=2).pairs != built.pairs


def test_the_manifest_tells_what_was_kept_and_left_out(built: Built, replies: list[Reply], tmp_path: Path) -> None:
    manifest = build.write(tmp_path / "pairs", built, note="x")
    assert json.loads((tmp_path / "pairs" / "manifest.json").read_text()) == manifest
    assert manifest["judge"] == "exact"
    assert manifest["note"] == "x"
    equal = sum(reply.temperature == 0.7 for reply in replies)
    assert manifest["replies"] == {"given": len(replies), "equal": equal, "not judged": 0}
    for name, pairs in built.pairs.items():
        told = manifest["splits"][name]
        assert (told["pairs"], told["right"]) == (len(pairs), len(pairs) // 2)
        assert told["attack"] == Counter(pair.attack for pair in pairs if pair.attack)
        path = tmp_path / "pairs" / f"{name}.jsonl"
        assert manifest["files"][path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
        cases = acceptance.read_judged(path)  # what `verifier check --judged` reads
        assert [(case.id, case.label, case.attack) for case in cases] == [(p.id, p.label, p.attack) for p in pairs]


class Fails:
    """No verdict on every third item."""

    name, background = "fails", False

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        rows = ExactVerifier().verify(items)
        return [Verdict(None, failure="no answer") if n % 3 == 0 else row for n, row in enumerate(rows)]


def test_a_failure_is_no_label(problems: list[VerifiableProblem], replies: list[Reply]) -> None:
    failed = build.build(problems, replies, Fails(), seed=1).manifest
    assert failed["failures"] == {"no answer": failed["replies"]["not judged"]}
    assert failed["replies"]["not judged"] == 50
    kept = sum(failed["splits"][name]["origin"].get("reply", 0) for name in build.SPLITS)
    assert kept <= 100


def test_one_sided_pairs_are_refused(problems: list[VerifiableProblem], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.attacks, "positives", lambda problem: [])
    wrong = [Reply(problem, "something else") for problem in problems]
    with pytest.raises(RecordError, match="all are wrong"):
        build.build(problems, wrong, ExactVerifier())


def test_replies_are_read_in_the_students_form_or_plain(tmp_path: Path) -> None:
    problem = VerifiableProblem("p", "Which?", "salt")
    rows = [
        {"id": "p", "reply": render("Hmm.", "It is salt."), "temperature": 1},
        {"id": "p", "reply": " Plainly salt. "},
        {"id": "p", "reply": "## Final Response\n\nsalt"},
        {"id": "p", "reply": "  "},
        {"id": "other", "reply": "salt"},
    ]
    jsonl.write(tmp_path / "r.jsonl", rows)
    skipped: Counter[str] = Counter()
    found = build.read_replies([tmp_path / "r.jsonl"], {"p": problem}, skipped)
    assert found == [Reply(problem, "It is salt.", 1.0), Reply(problem, "Plainly salt.", None)]
    assert skipped == {"no final response": 2, "no such problem": 1}
    jsonl.write(tmp_path / "bad.jsonl", [{"id": "p"}])
    with pytest.raises(RecordError, match=r"bad.jsonl:1: expected id and reply"):
        build.read_replies([tmp_path / "bad.jsonl"], {}, skipped)


def test_sampling_asks_each_question_at_each_temperature_and_pays_once(tmp_path: Path) -> None:
    problems = [VerifiableProblem(f"p{n}", f"Which, case {n}?", "salt") for n in range(4)]
    skipped: Counter[str] = Counter()

    def faults(request: dict, attempt: int) -> str | None:
        return "refusal" if "case 3" in request["messages"][0]["content"] else None

    with ScriptedServer(lambda request: f"warm {request['temperature']}", faults=faults) as server:
        chosen = profiles.load("local", (f"base_url={server.url}", "seed=true"))

        def draw() -> list[Reply]:
            skipped.clear()
            return sample(
                chosen, tmp_path / "s.sqlite", problems, temperatures=(0.2, 1.0), samples=2, max_tokens=50,
                skipped=skipped, retries=QUICK,
            )  # fmt: skip

        first = draw()
        assert len(server.requests) == 16
        assert draw() == first
        assert len(server.requests) == 16, "replies come from the store"
    assert Counter((reply.problem.id, reply.final_response, reply.temperature) for reply in first) == {
        (f"p{n}", f"warm {t}", t): 2 for n in range(3) for t in (0.2, 1.0)
    }
    assert sum(skipped.values()) == 4


def test_sampling_stops_where_nothing_can_be_asked(tmp_path: Path) -> None:
    problems = [VerifiableProblem("p", "Which?", "salt")]
    settings = {"temperatures": (1.0,), "samples": 1, "max_tokens": 5, "skipped": Counter[str](), "retries": QUICK}
    with ScriptedServer(faults=lambda request, attempt: "404") as server:
        chosen = profiles.load("local", (f"base_url={server.url}",))
        with pytest.raises(APIError, match="404"):
            sample(chosen, tmp_path / "s.sqlite", problems, **settings)
        cold = profiles.load("local", (f"base_url={server.url}", "temperature=false"))
        with pytest.raises(RecipeError, match="takes no temperature"):
            sample(cold, tmp_path / "s.sqlite", problems, **settings)
