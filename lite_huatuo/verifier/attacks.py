"""Replies made up from a problem: wrong ones that are to fool a judge, and right ones in other words.

Kinds are named as in the shipped suite. Everything is made from templates and tables, so the labels need no judge: a
negative never states the ground truth as its answer, a positive always does.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from lite_huatuo.records import VerifiableProblem
from lite_huatuo.verifier import attack_texts as texts
from lite_huatuo.verifier import medical_terms as terms
from lite_huatuo.verifier.exact import halves
from lite_huatuo.verifier.medical_terms import normalise

Made = tuple[str, str]  # (kind, final response)
RIVALS = 3  # wrong names needed: for a list of candidates


def negatives(
    problem: VerifiableProblem, options: Mapping[str, str] | Sequence[str] = (), *, rng: random.Random
) -> list[Made]:
    """Return wrong final responses with the kind of each attack, several of a kind where there are several templates.

    `options` are other answers to the question, as of its exam form; those that say the same as the ground truth are
    left out. Where there are too few, common answers to other questions are drawn with `rng`.
    """
    language = "zh" if problem.language == "zh" else "en"
    name = short_name(problem.ground_truth)
    made = [("empty-opener", text) for text in texts.EMPTY[language]]
    made += [("echoed-question", text.format(question=problem.question)) for text in texts.ECHOED_QUESTION[language]]
    if said := polarity(problem.ground_truth):
        return made + [("polarity", text) for text in texts.OPPOSITE[language, said]]
    others = _rivals(problem, name, list(options.values() if isinstance(options, Mapping) else options), rng)
    neighbours = list(_neighbours(name))
    values = {"name": name, "other": others[0], "second": others[1], "third": others[2]}
    for kind, templates in texts.NEGATIVES[language].items():
        made += [(kind, _fill(text, values)) for text in templates]
    made += [("neighbour", other) for other in neighbours]
    made += [("partial-number", other) for other in _other_numbers(name)]
    rows = [name, *others]
    rng.shuffle(rows)
    made += [("all-options", joint.join(rows)) for joint in texts.JOINTS[language]]
    made.append(("all-options", "\n".join(f"{number}. {row}" for number, row in enumerate(rows, 1))))
    return made


def positives(problem: VerifiableProblem) -> list[Made]:
    """Return right final responses with the form of each: bare, in a sentence, in markdown, an alias, another unit."""
    language = "zh" if problem.language == "zh" else "en"
    name = short_name(problem.ground_truth)
    if said := polarity(problem.ground_truth):
        return [("sentence", text) for text in texts.SAME[language, said]]
    made = [("bare", name)]
    made += [(form, _fill(text, {"name": name})) for form, text in texts.POSITIVES[language]]
    made += [("alias", alias) for alias in aliases(problem.ground_truth)]
    words = normalise(name).split()
    if len(words) == 2:
        made += [("unit", f"{number} {unit}") for number, unit in terms.equal_quantities(*words) if "." not in number]
    return made


def short_name(ground_truth: str) -> str:
    """Return a ground truth without its parenthesis and last full stop: "Thiamine (vitamin B1)." is "Thiamine"."""
    name = re.sub(r"\s*[(（][^()（）]*[)）]\s*$", "", ground_truth.strip().rstrip(".。")).strip()
    return name or ground_truth.strip()


def polarity(ground_truth: str) -> str:
    """Return "yes" or "no" for a ground truth that is one, else ""."""
    bare = normalise(ground_truth).replace(" ", "")
    return "yes" if bare in terms.YES else "no" if bare in terms.NO else ""


def aliases(ground_truth: str) -> list[str]:
    """Return other names of a ground truth: those in its parenthesis and those of the table of terms."""
    truth = ground_truth.strip().rstrip(".。")
    names = [half.strip() for half in halves(terms.fold_characters(truth))]
    known = {normalise(truth), normalise(short_name(truth))}
    found = [name for name in names[2:] if normalise(name) not in known]
    groups = _groups().get(normalise(short_name(truth)), [])
    if len(groups) == 1:  # an abbreviation with several readings says too little
        found += [name for name in groups[0] if normalise(name) not in known]
    return list(dict.fromkeys(name for name in found if name))


@cache
def _groups() -> dict[str, list[list[str]]]:
    """Return folded phrase -> the groups of equal names it stands in."""
    table: dict[str, list[list[str]]] = {}
    for group in re.split(r"\n| ; ", terms.SYNONYMS.strip()):
        names = [name.strip() for name in group.split("|")]
        for name in names:
            table.setdefault(normalise(name), []).append(names)
    return table


def _fill(template: str, values: Mapping[str, str]) -> str:
    """Fill a template; braces in the values stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], template)


def _rivals(problem: VerifiableProblem, name: str, options: list[str], rng: random.Random) -> list[str]:
    """Return `RIVALS` other answers, none of which says the ground truth or stands in the question."""
    pool = texts.COMMON_ANSWERS["zh" if problem.language == "zh" else "en"]
    drawn = options + rng.sample(pool, len(pool))
    right = {normalise(name), *map(normalise, aliases(problem.ground_truth))}
    asked = f" {normalise(problem.question)} "
    kept = []
    for number, other in enumerate(drawn):
        words = normalise(other)
        if not words or any(words in one or one in words for one in right):
            continue
        if number < len(options) or f" {words} " not in asked:
            kept.append(short_name(other))
    return list(dict.fromkeys(kept))[:RIVALS]


def _neighbours(name: str) -> Iterator[str]:
    """Yield names that differ from a name in one word that matters: hyper and hypo, left and right."""
    for one, other in texts.OPPOSITES:
        for old, new in ((one, other), (other, one)):
            if match := re.search(
                rf"(?i)(?<![a-z]){re.escape(old)}" + ("" if old in texts.STEMS else r"(?![a-z])"), name
            ):
                yield name[: match.start()] + new + name[match.end() :]
                break


def _other_numbers(name: str) -> Iterator[str]:
    """Yield a quantity ten times as large and one with a digit more, and a range that ends in it."""
    match = re.fullmatch(r"(\d+)(\s?[^\d\s][^\d]*)?", name)
    if not match or match[1] == "0":
        return
    number, unit = int(match[1]), match[2] or ""
    yield f"{number * 10}{unit}"
    yield f"1{number}{unit}"
    yield f"{number}-{number * 3}{unit}"
