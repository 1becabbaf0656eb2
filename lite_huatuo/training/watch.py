"""Watch a PPO run for the signs of a policy that pleases its verifier instead of being right.

Each sign is one number an update, with a limit in the recipe (`ppo.watch`). Passing a limit warns; passing it
`patience` updates in a row stops the run. The sharpest sign is the gap: the share that the verifier calls right minus
the share that a second, different verifier calls right, on the same sample of episodes.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lite_huatuo.response_format import parse
from lite_huatuo.training.rollout import Episode
from lite_huatuo.verifier.base import Item, Verifier

BASELINE = 5  # the first updates, whose mean reply length later ones are compared with
GRAM = 4  # tokens in a row that count as a repetition where they come again
LISTED = 3  # short parts side by side that make a final response a list of answers

# What each sign means in words, and whether its limit is the most (+1) or the least (-1) that is allowed.
SIGNS = {
    "gap": (+1, "the verifier calls many replies right that the second verifier calls wrong"),
    "length_ratio": (+1, "replies have grown or shrunk out of proportion to the first updates"),
    "repetition": (+1, "replies repeat themselves"),
    "no_form_share": (+1, "replies lose their final response"),
    "answer_list_share": (+1, "final responses list answers instead of giving one"),
    "kl_per_token": (+1, "the policy has moved far from the SFT policy"),
    "entropy": (-1, "the policy has lost its variety"),
}


@dataclass
class WatchState:
    """What is remembered from update to update; part of every checkpoint.

    `streaks` counts updates in a row beyond each limit; `lengths` are the first updates' mean reply lengths; `good` is
    the last checkpoint's update at which nothing was beyond its limit.
    """

    streaks: dict[str, int] = field(default_factory=dict)
    lengths: list[float] = field(default_factory=list)
    good: int = 0


@dataclass(frozen=True)
class Warned:
    """One sign beyond its limit: how many updates in a row, and a sentence that says so."""

    sign: str
    streak: int
    text: str


def second_opinion(episodes: Sequence[Episode], verifier: Verifier, count: int) -> dict[str, float]:
    """Ask a second verifier about `count` judged episodes, spread evenly; return the gap and its two shares.

    Episodes without the form count as wrong with both; those the second cannot judge are left out. Nothing is returned
    where none is left.
    """
    judged = [episode for episode in episodes if episode.score is not None]
    chosen = [judged[i * len(judged) // min(count, len(judged))] for i in range(min(count, len(judged)))]
    items, first = [], []
    for episode in chosen:
        sections = parse(episode.text) if episode.well_formed else None
        if sections is not None and episode.verdict is not None:
            items.append(Item(episode.problem.question, sections.final_response, episode.problem.ground_truth))
            first.append(bool(episode.verdict.correct))
    pairs = [
        (mine, verdict.correct)
        for mine, verdict in zip(first, verifier.verify(items), strict=True)
        if verdict.correct is not None
    ]
    total = len(pairs) + len(chosen) - len(items)
    if not total:
        return {}
    mine, other = (sum(bool(pair[i]) for pair in pairs) / total for i in (0, 1))
    return {"watch/gap": mine - other, "watch/second_right_share": other}


def signs(episodes: Sequence[Episode], row: Mapping[str, float], state: WatchState) -> dict[str, float]:
    """Return the signs of an update that need no second verifier, from its episodes and its metrics `row`."""
    length = row["reply/length_mean"]
    if len(state.lengths) < BASELINE:
        state.lengths.append(length)
    ratio = length / statistics.fmean(state.lengths)
    finals = [sections.final_response for episode in episodes if (sections := parse(episode.text)) is not None]
    return {
        "watch/length_ratio": max(ratio, 1 / ratio),
        "watch/repetition": statistics.fmean(repetition(episode.reply) for episode in episodes),
        "watch/no_form_share": 1.0 - row["score/form_share"],
        "watch/answer_list_share": sum(lists_answers(text) for text in finals) / max(1, len(finals)),
    }


def check(row: Mapping[str, float], limits: Mapping[str, float | None], state: WatchState) -> list[Warned]:
    """Compare an update's signs with the limits (None: not watched), keep the streaks, return what is beyond."""
    values = {
        **{name: row[f"watch/{name}"] for name in SIGNS if f"watch/{name}" in row},
        "kl_per_token": row["reference/kl_per_token"],
        "entropy": row["policy/entropy"],
    }
    found = []
    for name, (side, meaning) in SIGNS.items():
        limit, value = limits.get(name), values.get(name)
        if limit is None or value is None or side * value <= side * limit:
            state.streaks.pop(name, None)
            continue
        streak = state.streaks[name] = state.streaks.get(name, 0) + 1
        bound = "more than" if side > 0 else "less than"
        found.append(Warned(name, streak, f"{meaning}: {name} {value:.3g}, {bound} the limit {limit:g}"))
    return found


def stopped(sign: Warned, update: int, good: Path) -> str:
    """Return why a run stops at an update and how to go on; `good` is the newest policy from before the warnings."""
    return (
        f"update {update}: stopped, {sign.streak} updates in a row {sign.text}. Last good policy: {good}. Read "
        "ppo/samples.jsonl; then mend the verifier or raise ppo.kl_coef and start a new run, or go on with --resume "
        f"--set ppo.watch.{sign.sign}=LIMIT"
    )


def repetition(tokens: Sequence[int]) -> float:
    """Return the share of a reply's runs of GRAM tokens that were there before in it, 0 for a short reply."""
    grams = [tuple(tokens[i : i + GRAM]) for i in range(len(tokens) - GRAM + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def lists_answers(final_response: str) -> bool:
    """Tell whether a final response is a list of candidates: LISTED or more short parts set side by side, and no
    sentence beside them."""
    text = final_response.replace("\n", ", ").replace(" or ", ", ").replace("、", ", ").replace("；", ", ")
    parts = [part.strip(" -*•.0123456789)") for part in text.replace(";", ",").replace("，", ",").split(",")]
    parts = [part for part in parts if part]
    return len(parts) >= LISTED and all(len(part.split()) <= 4 and len(part) <= 40 for part in parts)
