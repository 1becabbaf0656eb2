"""A judge behind an endpoint, for several processes: the main one asks for all, with one store, budget, rate limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lite_huatuo.processes import Processes
from lite_huatuo.verifier.base import Item, Verdict, Verifier


class OnMain:
    """Judges each process's items by the main process's verifier, which `make` makes there and nowhere else.

    Every process must call `verify`, if only with nothing. What several ask is asked once.
    """

    background = True

    def __init__(self, make: Callable[[], Verifier], name: str, processes: Processes) -> None:
        self.name, self.processes = name, processes.apart()  # `verify` may run on a thread
        self.verifier = make() if processes.main else None

    def verify(self, items: Sequence[Item]) -> list[Verdict]:
        """Judge every item of this process, together with those of the others."""
        asked = list(dict.fromkeys(item for part in self.processes.gather(list(items)) for item in part))
        verifier = self.verifier
        verdicts = self.processes.once(lambda: verifier.verify(asked) if verifier else [])
        by_item = dict(zip(asked, verdicts, strict=True))
        return [by_item[item] for item in items]

    def close(self) -> None:
        """Close the main process's verifier where it can be closed."""
        close = getattr(self.verifier, "close", None)
        if close is not None:
            close()
