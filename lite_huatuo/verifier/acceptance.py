"""Whether a verifier can be trusted: its verdicts on judged cases, in numbers, and the bar it must reach before PPO."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lite_huatuo import jsonl
from lite_huatuo.data import texts
from lite_huatuo.errors import RecordError
from lite_huatuo.records import detect_language
from lite_huatuo.verifier import metrics
from lite_huatuo.verifier.api import ApiVerifier
from lite_huatuo.verifier.base import Verdict, Verifier
from lite_huatuo.verifier.suite import Case

RESPONSE, GROUND_TRUTH = ("final_response", "response"), ("ground_truth", "reference")
LENGTHS = (("up to 80", 80), ("81 to 400", 400), ("over 400", None))  # characters; a Han one counts for three
CHUNK, CHUNK_WAITING = 64, 256  # cases judged between two signs of life; more where many are on their way at once


@dataclass(frozen=True)
class Judged:
    """What a verifier said of some cases, and what that took. `asked`: replies that each judge behind an endpoint
    fetched, on average; None where there is no such judge."""

    cases: Sequence[Case]
    verdicts: list[Verdict]
    seconds: float
    dollars: float
    asked: float | None

    @property
    def said(self) -> list[bool | None]:
        """The verdicts, None for a failure."""
        return [verdict.correct for verdict in self.verdicts]


def read_judged(path: Path) -> list[Case]:
    """Read lines with question, final_response (or response), ground_truth (or reference), label, and maybe attack."""
    cases = [_case(row, where) for where, row in jsonl.iter_rows(path)]
    if not cases:
        raise RecordError(f"{path}: holds no judged rows")
    return cases


def judge(verifier: Verifier, cases: Sequence[Case], *, advance: Callable[[int], None] = lambda count: None) -> Judged:
    """Let a verifier judge the cases; `advance` is told how many more are done."""
    before, began = _spent(verifier), time.perf_counter()
    size = CHUNK_WAITING if verifier.background else CHUNK
    verdicts: list[Verdict] = []
    for start in range(0, len(cases), size):
        chunk = cases[start : start + size]
        verdicts += verifier.verify([case.item for case in chunk])
        advance(len(chunk))
    seconds, after = time.perf_counter() - began, _spent(verifier)
    dollars = sum(after.dollars.values()) - sum(before.dollars.values())
    asked = (after.asked - before.asked) / after.judges if after.judges else None
    return Judged(cases, verdicts, seconds, dollars, asked)


def report(judged: Judged) -> dict[str, Any]:
    """Return the numbers of one verifier on one set of cases, as plain values."""
    cases, said = judged.cases, judged.said
    known = [(v.probability, c.label) for v, c in zip(judged.verdicts, cases, strict=True) if v.probability is not None]
    negatives = [(case.attack, verdict) for case, verdict in zip(cases, said, strict=True) if not case.label]
    positives = [(case.attack, verdict) for case, verdict in zip(cases, said, strict=True) if case.label]
    failures = Counter(verdict.failure for verdict in judged.verdicts if verdict.failure)
    return {
        **metrics.confusion([case.label for case in cases], said).report(),
        "calibration_error": metrics.calibration_error([p for p, _ in known], [label for _, label in known]),
        "false_positives_by_attack": _accepted(negatives),
        "recall_by_form": dict(reversed(_accepted(positives).items())),
        "by_language": _by(judged, lambda case: case.language),
        "by_length": _by(judged, lambda case: _length(case.final_response)),
        "failures": dict(failures.most_common(10)),
        "seconds_per_1000": judged.seconds * 1000 / max(1, len(cases)),
        "dollars_per_1000": _dollars_per_1000(judged),
        "asked": judged.asked,
    }


def agreement(one: Judged, other: Judged) -> dict[str, Any]:
    """Return how far two verifiers agree on the cases that both of them judged."""
    assert one.cases is other.cases, "the same cases"
    both = [(a, b) for a, b in zip(one.said, other.said, strict=True) if a is not None and b is not None]
    return {
        "agreement": asdict(metrics.wilson(sum(a == b for a, b in both), len(both))),
        "kappa": metrics.kappa([a for a, _ in both], [b for _, b in both]),
        "only_first_right": sum(a and not b for a, b in both),
        "only_second_right": sum(b and not a for a, b in both),
    }


def refusal(found: Mapping[str, Any], *, accept_at: float, least_judged_share: float) -> str | None:
    """Return why a verifier with this report must not give a reward, None where it may."""
    judged, n, accuracy = found["accuracy"]["n"], found["n"], found["accuracy"]
    if n == 0 or judged / n < least_judged_share:
        reason = next(iter(found["failures"]), "no cases")
        return f"it judged {judged} of {n} cases, {least_judged_share:.0%} are wanted; most often: {reason}"
    if accuracy["value"] < accept_at:
        interval = f"95 % interval {accuracy['low']:.3f} to {accuracy['high']:.3f}"
        return f"its accuracy is {accuracy['value']:.3f} ({interval}, {judged} cases); accept_at is {accept_at:g}"
    return None


def verdict_rows(judged: Judged) -> Iterable[dict[str, Any]]:
    """Yield each case's verdict beside its label, for a file that a person reads."""
    for case, verdict in zip(judged.cases, judged.verdicts, strict=True):
        yield {"id": case.id, "attack": case.attack, "label": case.label, **asdict(verdict)}


@dataclass(frozen=True)
class _Spent:
    dollars: dict[Path, float]  # by store: judges that share one are counted once
    asked: int
    judges: int


def _spent(verifier: Any) -> _Spent:
    """Return what the judges behind a verifier have cost so far."""
    if isinstance(verifier, ApiVerifier):
        return _Spent({verifier.path: verifier.dollars}, verifier.asked, 1)
    members = [_spent(member) for member in getattr(verifier, "members", ())]
    dollars = {path: spent for member in members for path, spent in member.dollars.items()}
    return _Spent(dollars, sum(member.asked for member in members), sum(member.judges for member in members))


def _dollars_per_1000(judged: Judged) -> float | None:
    """Return dollars for 1,000 cases, 0 without an endpoint, None where every verdict was replayed from the store."""
    if judged.asked is None:
        return 0.0
    paid = min(judged.asked, len(judged.cases))
    return judged.dollars * 1000 / paid if paid else None


def _accepted(pairs: Iterable[tuple[str, bool | None]]) -> dict[str, Any]:
    """Return the share that was judged right by kind of case, the greatest first; failures are in none."""
    groups: dict[str, list[bool]] = {}
    for kind, verdict in pairs:
        if kind and verdict is not None:
            groups.setdefault(kind, []).append(verdict)
    shares = {kind: metrics.wilson(sum(verdicts), len(verdicts)) for kind, verdicts in groups.items()}
    ordered = sorted(shares.items(), key=lambda entry: (-(entry[1].value or 0.0), entry[0]))
    return {kind: asdict(share) for kind, share in ordered}


def _by(judged: Judged, group: Callable[[Case], str]) -> dict[str, Any]:
    """Return the numbers of each group of cases."""
    places: dict[str, list[int]] = {}
    for place, case in enumerate(judged.cases):
        places.setdefault(group(case), []).append(place)
    labels, said = [case.label for case in judged.cases], judged.said
    order = {name: place for place, (name, _) in enumerate(LENGTHS)}
    return {
        name: metrics.confusion([labels[k] for k in chosen], [said[k] for k in chosen]).report()
        for name, chosen in sorted(places.items(), key=lambda entry: (order.get(entry[0], 0), entry[0]))
    }


def _length(text: str) -> str:
    """Return the band of a final response's length."""
    length = texts.length(text)
    return next(name for name, most in LENGTHS if most is None or length <= most)


def _case(row: Mapping[str, Any], where: str) -> Case:
    """Read one judged row."""
    label = row.get("label")
    if not isinstance(label, bool):
        raise RecordError(f"{where}: label must be true or false, not {label!r}")
    question = _text(row, ("question",), where)
    return Case(
        id=str(row.get("id") or where),
        question=question,
        final_response=_text(row, RESPONSE, where),
        ground_truth=_text(row, GROUND_TRUTH, where),
        label=label,
        attack=str(row.get("attack") or ""),
        language=str(row.get("language") or detect_language(question)),
    )


def _text(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    """Return the first of the named fields that the row has as text; a final response may be empty."""
    for name in names:
        if isinstance(row.get(name), str):
            return str(row[name])
    raise RecordError(f"{where}: missing {names[0]} (text); expected one of the fields {', '.join(names)}")
