"""Whether the Hugging Face Hub can be asked. Its client tries a network that is not there six times for each file, half
a minute and more; here it is asked once, and where it does not answer nothing waits for it any more.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lite_huatuo import nearest
from lite_huatuo.errors import BackendError

PATIENCE = 5.0  # seconds
_told: dict[str, str | None] = {}  # endpoint -> why it cannot be asked, None where it answers


def failure() -> str | None:
    """Return why the Hub cannot be asked, None where it answers. It is asked once a process.

    Where it does not answer, the libraries take only what was downloaded before, in this process and those it starts.
    """
    from huggingface_hub import constants

    if constants.ENDPOINT in _told:
        return _told[constants.ENDPOINT]
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    reason = _told[constants.ENDPOINT] = _ask(constants.ENDPOINT)
    if reason is not None:
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"
        if "datasets.config" in sys.modules:  # which has read it already
            vars(sys.modules["datasets.config"])["HF_HUB_OFFLINE"] = True
    return reason


def _ask(endpoint: str) -> str | None:
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=PATIENCE)  # any answer will do; as every request, by the proxy
        return None
    except Exception as error:  # whatever it is, it cannot be asked; an address that is none is no HTTP error
        return f"{endpoint} does not answer: {str(error).strip().split(chr(10))[0] or type(error).__name__}"


def require(model: str, key: str) -> None:
    """Raise BackendError for what is no Hub id, and where that model is neither here nor to be had; `key` names it."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    no_folder = f"{key}: {model}: cannot be loaded: no such folder{nearest.file_hint(Path(model))}"
    try:
        kept = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model")
    except ValueError:
        raise BackendError(f"{no_folder}, and no Hub id, which is org/name") from None
    if any(kept.glob("snapshots/*/config.json")):
        failure()  # the libraries will ask the Hub whether there is a newer one
    elif (reason := failure()) is not None:
        raise BackendError(
            f"{no_folder}, and the Hub cannot be asked ({reason}); check name and network, or give a model's folder"
        )
    elif not _on_hub(model):
        raise BackendError(
            f"{no_folder}, and none on the Hub that you may see; check the name, and HF_TOKEN if it is a private one"
        )


def _on_hub(model: str) -> bool:
    """True where the Hub has a model of that name, and where it cannot tell."""
    from huggingface_hub import repo_exists

    try:
        return repo_exists(model)
    except (client_error(), OSError):
        return True


def client_error() -> type[Exception]:
    """Return the class of all errors of the HTTP client that huggingface_hub uses: httpx up to 1.x, httpx2 from 2.0."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__bases__ if base is not OSError)
