"""Whether the Hugging Face Hub can be asked. Its client tries a network that is not there six times for each file, half
a minute and more; here it is asked once, and where it does not answer nothing waits for it any more.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

from lite_huatuo import nearest
from lite_huatuo.errors import BackendError

PATIENCE = 5.0  # seconds


@functools.cache
def failure() -> str | None:
    """Return why the Hub cannot be asked, None where it answers. It is asked once a process.

    Where it does not answer, the libraries take only what was downloaded before, in this process and those it starts.
    """
    import httpx
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)  # any answer will do; as every request, by the proxy
        return None
    except (httpx.TransportError, httpx.InvalidURL) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    if "datasets.config" in sys.modules:  # which has read it already
        vars(sys.modules["datasets.config"])["HF_HUB_OFFLINE"] = True
    return f"{constants.ENDPOINT} does not answer: {reason}"


def require(model: str, key: str) -> None:
    """Raise BackendError for what is no Hub id, and where that model is neither here nor to be had; `key` names it."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    no_folder = f"{key}: {model}: cannot be loaded: no such folder{nearest.file_hint(Path(model))}"
    try:
        kept = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model")
    except ValueError:
        raise BackendError(f"{no_folder}, and no Hub id, which is org/name") from None
    if (reason := failure()) is not None and not any(kept.glob("snapshots/*/config.json")):
        raise BackendError(
            f"{no_folder}, and the Hub cannot be asked ({reason}); check name and network, or give a model's folder"
        )
