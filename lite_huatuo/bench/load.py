"""Loading the base: seconds, memory beside `plan`, and what is left of it when nobody holds it any more."""

from __future__ import annotations

from typing import Any

from lite_huatuo.bench import assembled, measure
from lite_huatuo.bench.place import Place
from lite_huatuo.models import backends

LEFT_MIB = 64  # workspaces of libraries, that stay


def run(place: Place) -> dict[str, Any]:
    """Load the base twice, the second time after all of the first should be gone."""
    assembled.release(place)
    before, recipe = measure.allocated(), place.recipe()
    figures: dict[str, Any] = {"memory": []}
    for turn in ("first", "again"):
        measure.clean()
        loaded: Any = None

        def work() -> None:
            nonlocal loaded
            loaded = backends.load(**recipe.base.model_dump())

        figures[f"{turn}_seconds"] = round(measure.seconds(work), 1)
        figures["memory"].append(measure.memory(f"load, {turn}", place.predicted(recipe, "load")))
        figures["packs"], figures["dtype"] = loaded.packs, str(loaded.model.dtype).removeprefix("torch.")
        if not place.start.exists():
            assembled.make_start(place, recipe, loaded)
        del loaded
        measure.clean()
        now = measure.allocated()
        if now is not None and before is not None:
            figures[f"{turn}_left_mib"] = now - before
    left = [value for name, value in figures.items() if name.endswith("_left_mib")]
    holds = {"a dropped base leaves the card": max(left) <= LEFT_MIB} if left else {}
    return {**figures, "holds": holds}
