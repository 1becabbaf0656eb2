"""From a recipe's `verifier` section to a verifier."""

from __future__ import annotations

from lite_huatuo.errors import BackendError
from lite_huatuo.verifier.base import Verifier
from lite_huatuo.verifier.exact import ExactVerifier


def make(kind: str) -> Verifier:
    """Return the verifier of a kind; kinds of the recipe schema that are not built yet are refused by name."""
    if kind == "exact":
        return ExactVerifier()
    raise BackendError(f"verifier.kind: {kind} is not available in this version; set verifier.kind to exact")
