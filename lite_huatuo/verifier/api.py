"""The api verifier: a model behind a chat endpoint judges. Every reply is kept in a request store, so that the same
item is judged once, ever; a rerun replays the verdicts for free.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lite_huatuo.data import replies
from lite_huatuo.data.asking import Request, ask_again
from lite_huatuo.data.client import Teacher
from lite_huatuo.data.limits import Retries
from lite_huatuo.data.profile import Profile
from lite_huatuo.errors import APIError, ReplyError
from lite_huatuo.prompts.render import render
from lite_huatuo.prompts.schemas import SCHEMAS
from lite_huatuo.records import detect_language
from lite_huatuo.verifier import judge_room, verdict_words
from lite_huatuo.verifier.base import Item, Verdict

STEP = "verifier.judge"
TRIES = 2  # a reply that cannot be used is asked for once more
MAX_TOKENS = {"schema": 256, "word": 128}  # a reply is a few; one that is cut is a failure
TEMPLATES = {"schema": "judge_answer", "word": "judge_answer_word"}
# The tags of the prompts: inside the data their brackets are exchanged, so that no text can end its own part.
_TAG = re.compile(r"<(\s*/?\s*(?:question|ground_truth|final_response)\b[^<>]*)>", re.IGNORECASE)

Form = Literal["schema", "word"]


class ApiVerifier:
    """Judges by asking a model: `form` "schema" wants {"correct": …}, "word" a single True or False.

    An item that got no verdict, because of the network, the budget, a refusal or a reply that cannot be read, is a
    failure with its reason, never a "wrong". `budget` in dollars holds for everything the store has paid. The store is
    opened at the first `verify`, which may be called from any thread. Close it, or use it in a `with`.
    """

    background = True  # it waits for the network: judge beside other work

    def __init__(
        self,
        profile: Profile,
        store: Path,
        *,
        budget: float | None = None,
        form: Form = "schema",
        retries: Retries | None = None,
    ) -> None:
        check_key(profile)
        self.profile, self.path, self.budget, self.form = profile, store, budget, form
        self.name = f"api ({profile.name})"
        self._retries = retries
        self._opening = threading.Lock()
        self._room: judge_room.Room | None = None
        self._teacher: Teacher | None = None

    def __enter__(self) -> ApiVerifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store, where nobody else uses it; the next `verify` would open it again."""
        with self._opening:
            if self._room is not None and self._teacher is not None:
                judge_room.leave(self._room, self._teacher)
            self._room = self._teacher = None

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        """Judge every item, as many at one time as the profile allows; returns when all are judged."""
        if not items:
            return []
        room, teacher = self._open()
        return room.run(self._all(teacher, items))

    @property
    def asked(self) -> int:
        """Replies that were fetched, not replayed from the store, since it was opened."""
        return self._teacher.usage.answered if self._teacher is not None else 0

    @property
    def dollars(self) -> float:
        """Dollars that all calls of the store have cost, of earlier runs and other models too; opens the store."""
        return self._open()[0].store.budget.spent

    def _open(self) -> tuple[judge_room.Room, Teacher]:
        with self._opening:
            if self._room is None or self._teacher is None:
                self._room, self._teacher = judge_room.enter(self.path, self.profile, self.budget, self._retries)
            return self._room, self._teacher

    async def _all(self, teacher: Teacher, items: Sequence[Item]) -> list[Verdict]:
        return list(await asyncio.gather(*(self._one(teacher, item) for item in items)))

    async def _one(self, teacher: Teacher, item: Item) -> Verdict:
        """Judge one item; a reply that cannot be used is asked for again."""
        last = ""

        async def use(text: str) -> Verdict:
            nonlocal last
            last = text
            return Verdict(read_reply(text, self.form), text)

        try:
            return await ask_again(teacher.ask, self.request(item), use, tries=TRIES)
        except (ReplyError, APIError) as error:
            return Verdict(None, last, failure=str(error))

    def request(self, item: Item) -> Request:
        """Return what the judge is asked, in the language of the question."""
        language = detect_language(item.question)
        values = {
            "question": as_data(item.question),
            "ground_truth": as_data(item.ground_truth),
            "final_response": as_data(item.final_response),
        }
        if self.form == "word":
            right, wrong = verdict_words.WORDS.get(language, verdict_words.WORDS["en"])
            values.update(right=right, wrong=wrong)
        template = TEMPLATES[self.form]
        schema = SCHEMAS[template] if self.form == "schema" else None
        return Request(STEP, render(template, language, **values), MAX_TOKENS[self.form], schema, temperature=0.0)


def read_reply(text: str, form: Form) -> bool:
    """Return the verdict in a judge's reply; ReplyError where there is none that can be trusted."""
    if form == "schema":
        return bool(replies.read_object(text, SCHEMAS[TEMPLATES["schema"]])["correct"])
    verdict = verdict_words.read(replies.read_text(text))
    if verdict is None:
        raise ReplyError(f'no verdict in "{" ".join(text.split())[:80]}"')
    return verdict


def as_data(text: str) -> str:
    """Return a text that cannot end or open a part of the prompt: the prompt's own tags in it are bracketed ‹so›."""
    return _TAG.sub(r"‹\1›", text)


def check_key(profile: Profile) -> None:
    """Raise APIError where the key that the profile names is not in the environment."""
    if profile.key_env is not None and not os.environ.get(profile.key_env, "").strip():
        raise APIError(f"{profile.name}: no key; set the environment variable {profile.key_env}")
