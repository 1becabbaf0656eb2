"""Push an exported folder to the Hugging Face Hub: private unless asked otherwise, and seen whole or not at all.

The files are uploaded first, large ones by hf_xet where it is installed, then one commit makes all of them visible.
The endpoint is HF_ENDPOINT's, the token HF_TOKEN's or that of `hf auth login`; it is never printed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects

from lite_huatuo.errors import ExportError

# What an update removes where the new folder has no such file: old weights beside the new ones would be read.
OWN = ("*.safetensors", "*.safetensors.index.json", "*.gguf", "adapter_config.json", "Modelfile")
OUTSIDE = (HfHubHTTPError, HFValidationError, httpx.HTTPError, OfflineModeIsEnabled, OSError)
LOGIN = "set HF_TOKEN to a token that may write, or run `hf auth login`"


def files(folder: Path) -> dict[str, int]:
    """Return {path in the repository: bytes} of what a push uploads."""
    found = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    kept = filter_repo_objects(found, ignore_patterns=DEFAULT_IGNORE_PATTERNS)
    return {path: (folder / path).stat().st_size for path in kept}


def push(
    folder: Path,
    repo: str,
    *,
    private: bool = True,
    update: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> str:
    """Publish a folder as model `repo` (user/name) in one commit; return the commit's address.

    An existing repository with files in it is refused unless `update`. `revision`: commit to this branch, made if
    need be, and leave main alone. `tag` names the commit.
    """
    if constants.is_offline_mode():
        raise ExportError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it")
    api = HfApi(token=_token())
    try:
        _check_rights(api, repo)
        fresh = _prepare(api, repo, private=private, update=update, tag=tag)
        note(f"{repo}: uploading {len(files(folder))} files")
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        commit = _upload(api, folder, repo, revision)
        if tag is not None:
            api.create_tag(repo, tag=tag, revision=commit.oid)
        if not fresh and api.model_info(repo).private != private:
            note(f"{repo}: is {'public' if private else 'private'} and stays so; its settings page changes that")
    except OUTSIDE as error:
        raise ExportError(_message(repo, error)) from None
    except RuntimeError as error:  # of hf_xet itself, or what huggingface_hub wraps while a large file is uploaded
        if error.__cause__ is not None and not isinstance(error.__cause__, OUTSIDE):
            raise
        raise ExportError(_message(repo, error.__cause__ or error)) from None
    return str(commit.commit_url)


def _token() -> str:
    token = get_token()
    if not token:
        raise ExportError(f"no Hub token; {LOGIN}")
    return token


def _check_rights(api: HfApi, repo: str) -> None:
    """Refuse a token that the Hub does not know, or that may only read."""
    if repo.count("/") != 1:
        raise ExportError(f"--push {repo}: give user/name")
    account = api.whoami()
    role = ((account.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise ExportError(f"the Hub token of {account['name']} may only read; {LOGIN}")
    known = [account["name"], *(org["name"] for org in account.get("orgs", []))]
    if repo.partition("/")[0] not in known:
        raise ExportError(
            f"--push {repo}: {account['name']} is not in {repo.partition('/')[0]}; yours: {', '.join(known)}"
        )


def _prepare(api: HfApi, repo: str, *, private: bool, update: bool, tag: str | None) -> bool:
    """Make the repository, or see that it may be changed; True where it is new or empty."""
    try:
        info = api.model_info(repo)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private)
        return True
    empty = {sibling.rfilename for sibling in info.siblings or []} <= {".gitattributes"}
    if not empty and not update:
        raise ExportError(f"{repo}: exists already; replace its files with --update, or push to another name")
    if tag is not None and tag in {ref.name for ref in api.list_repo_refs(repo).tags}:
        raise ExportError(f"{repo}: has a tag {tag} already; choose another --tag")
    return empty


def _upload(api: HfApi, folder: Path, repo: str, revision: str | None) -> Any:
    """Upload what is not there yet, then commit all of it, unless someone else has committed meanwhile.

    Not by upload_folder: with hf_xet it cuts what is large or was refused into several commits, each of them seen.
    """
    head, new = api.model_info(repo, revision=revision), files(folder)
    old = filter_repo_objects((sibling.rfilename for sibling in head.siblings or []), allow_patterns=list(OWN))
    return api.create_commit(
        repo_id=repo,
        operations=[
            *(CommitOperationDelete(path) for path in old if path not in new),
            *(CommitOperationAdd(path, folder / path) for path in new),
        ],
        revision=revision,
        parent_commit=head.sha,
        commit_message="Upload a model exported by lite-huatuo",
    )


def _message(repo: str, error: BaseException) -> str:
    """Return what happened and what to do; never the request, which holds the token."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    nothing = "nothing was published; run the same command again, what was uploaded is not uploaded again"
    if status == 401:
        return f"{repo}: the Hub does not know this token; {LOGIN}"
    if status == 403:
        return f"{repo}: this token may not write there; {LOGIN}"
    if status in (409, 412):
        return f"{repo}: was changed by someone else meanwhile; nothing was published; look at it and run again"
    if status is not None and status >= 500:
        return f"{repo}: the Hub answered {status}; {nothing}"
    if isinstance(error, HFValidationError):
        return f"--push {repo}: {str(error).splitlines()[0]}"
    if status is not None:
        said = getattr(error, "server_message", None) or ""
        return f"{repo}: the Hub refused ({status}{': ' + said if said else ''}); {nothing}"
    if isinstance(error, (httpx.HTTPError, OfflineModeIsEnabled)):
        return f"{repo}: {constants.ENDPOINT} cannot be reached ({type(error).__name__}); {nothing}"
    return f"{repo}: {_upload_failure(error)}"


def _upload_failure(error: BaseException) -> str:
    """Return what broke while hf_xet, or Python itself, read or sent a large file.

    hf_xet's errors hold all in their text. Of it only host and status are told: an address may be signed.
    """
    said, again = str(error), "nothing was published; run the same command again"
    here = isinstance(error, OSError) and (error.strerror is not None or said.startswith("I/O error"))
    if here and not isinstance(error, (ConnectionError, TimeoutError)):
        reason = said.replace("I/O error: ", "")
        return f"a file could not be read, or something noted down beside it ({reason}); {again}"
    host, status = re.search(r"https?://[^/\s)]+", said), re.search(r"\(([45]\d\d [\w ]+)\)", said)
    what = f"answered {status[1]}" if status else f"cannot be reached or answers wrong ({type(error).__name__})"
    return (
        f"{host[0] if host else 'the Xet store'} {what} while large files were uploaded; {again}; if it stays so, "
        "HF_HUB_DISABLE_XET=1 uploads without Xet"
    )
