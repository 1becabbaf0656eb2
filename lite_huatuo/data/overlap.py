"""An index of texts that finds what another text shares with one of them.

Three rules, each on the texts as `texts.normalise` and `texts.units` leave them:
- "64 characters": a run of 64 equal characters, the paper's rule;
- "n-grams": half the runs of 8 words (in Han script, 12 characters) of the shorter text, for copies that were edited;
- "same question": all its words in order, for texts too short for the other two.

Exam questions share phrases longer than 64 characters ("... is the most appropriate next step in management?"). The
paper does not say what it did about them, but its published data keeps them, so by default a run of everyday words does
not count: one needs two words that few texts of the index have. `everyday=None` counts every run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lite_huatuo.data import texts

RUN = 64  # characters
BLOCK, STRIDE = 48, 16  # a run of RUN characters always holds a block that starts at a multiple of STRIDE
N_WORDS, N_HAN = 8, 12
SHARE = 0.5
ENOUGH = 12  # n-grams: of a shorter text, half is too little to say, so it must be half of the longer one
EVERYDAY = 0.005  # share of the index's texts above which a word is an everyday one
RARE_WORDS, HAN_RUN = 2, 16  # a run tells something with so many rarer words, or so many Han characters
CROWD = 30  # blocks and n-grams that more texts have lead nowhere


@dataclass(frozen=True)
class Hit:
    """What is shared: by which rule, with which text, how much (characters, or a share from 0 to 1), and the words."""

    rule: str
    number: int
    amount: float
    shared: str


class Index:
    """Texts to compare with; each is known by its number, from 0. Memory: about 10 times the characters, in bytes."""

    def __init__(self, *, everyday: float | None = EVERYDAY, share: float = SHARE) -> None:
        self.everyday, self.share = everyday, share
        self._texts: list[str] = []  # normalised
        self._words: Counter[str] = Counter()  # word -> texts that have it
        self._blocks: dict[int, Any] = {}  # hash of a block -> place, list of places, or None: a crowd
        self._grams: dict[int, Any] = {}  # hash of an n-gram -> number, list of numbers, or None
        self._whole: dict[bytes, Any] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> int:
        """Add a text and return its number."""
        number, normal = len(self._texts), texts.normalise(text)
        self._texts.append(normal)
        self._words.update(set(texts.units(text)))
        crowd = None if self.everyday is None else CROWD
        for start in range(0, len(normal) - BLOCK + 1, STRIDE):
            _put(self._blocks, hash(normal[start : start + BLOCK]), number << 32 | start, crowd)
        grams = ngrams(text)
        for gram in grams[:: 4 if len(grams) >= 4 * ENOUGH else 1]:  # a copy shares more than four in a row
            _put(self._grams, gram, number, CROWD)
        _put(self._whole, texts.key(text), number, None)
        return number

    def run(self, text: str) -> Hit | None:
        """Return the longest run of RUN characters or more that counts (with `everyday=None`, the first)."""
        normal = texts.normalise(text)
        best, best_begin, best_number = RUN - 1, 0, -1
        seen: dict[tuple[int, int], int] = {}  # (number, shift) -> where the run compared last ends
        dull: set[tuple[int, int]] = set()  # (begin, end) of runs that tell nothing
        held = self._blocks.get
        for start in range(len(normal) - BLOCK + 1):
            places = held(hash(normal[start : start + BLOCK]))
            if places is None:
                continue
            for place in (places,) if isinstance(places, int) else places:
                number, offset = place >> 32, place & 0xFFFFFFFF
                if seen.get((number, offset - start), -1) > start:
                    continue
                begin, end = _extend(normal, start, self._texts[number], offset)
                seen[number, offset - start] = end
                if end - begin <= best or (begin, end) in dull:
                    continue
                if not self._tells(normal[begin:end]):
                    dull.add((begin, end))
                    continue
                best, best_begin, best_number = end - begin, begin, number
                if self.everyday is None:
                    break
            if best_number >= 0 and self.everyday is None:
                break
        if best_number < 0:
            return None
        return Hit(f"{RUN} characters", best_number, best, normal[best_begin : best_begin + best])

    def overlap(self, text: str) -> Hit | None:
        """Return the text that shares most n-grams, where that is enough."""
        grams = set(ngrams(text))
        found = Counter(number for gram in grams for number in _places(self._grams, gram))
        best, best_number = 0.0, -1
        for number, _ in found.most_common(5):
            other = set(ngrams(self._texts[number]))
            shorter, longer = sorted((len(grams), len(other)))
            part = len(grams & other) / (shorter if shorter >= ENOUGH else longer)
            if part > best:
                best, best_number = part, number
        if best_number < 0 or best < self.share:
            return None
        return Hit("n-grams", best_number, round(best, 2), self._texts[best_number])

    def same(self, text: str) -> Iterator[Hit]:
        """Yield the texts of the same words."""
        for number in _places(self._whole, texts.key(text)):
            yield Hit("same question", number, 1.0, self._texts[number])

    def _tells(self, run: str) -> bool:
        """Say whether a run has words that few texts have. Words cut at its ends do not count."""
        if self.everyday is None:
            return True
        inside = texts.units(run)[1:-1]
        few = max(2.0, self.everyday * len(self))
        rare = {word for word in inside if self._words[word] <= few and not word.isdigit()}
        return len(rare) >= RARE_WORDS or texts.han(run) >= HAN_RUN


def ngrams(text: str) -> list[int]:
    """Return the hashes of a text's runs of units, in order; none where it is shorter than one run."""
    units = texts.units(text)
    size = N_HAN if 2 * sum(texts.han(unit) for unit in units) > len(units) else N_WORDS
    return [hash(tuple(units[start : start + size])) for start in range(len(units) - size + 1)]


def _extend(one: str, start: int, other: str, offset: int) -> tuple[int, int]:
    """Return where in `one` the run of equal characters begins and ends that holds `start`, which equals `offset`."""
    if one[start : start + BLOCK] != other[offset : offset + BLOCK]:  # equal hashes only
        return start, start
    begin, end, shift = start, start + BLOCK, offset - start
    while begin and begin + shift and one[begin - 1] == other[begin - 1 + shift]:
        begin -= 1
    while end < len(one) and end + shift < len(other) and one[end] == other[end + shift]:
        end += 1
    return begin, end


def _put(table: dict[Any, Any], key: Any, value: int, crowd: int | None) -> None:
    """Add a value under a key; one value stands alone, without a list, for memory. More than `crowd` become None."""
    if key not in table:
        table[key] = value
        return
    held = table[key]
    if isinstance(held, int):
        table[key] = [held, value]
    elif held is not None:
        held.append(value)
        if crowd is not None and len(held) > crowd:
            table[key] = None


def _places(table: dict[Any, Any], key: Any) -> list[int]:
    """Return the values under a key."""
    held = table.get(key)
    return [] if held is None else [held] if isinstance(held, int) else held
