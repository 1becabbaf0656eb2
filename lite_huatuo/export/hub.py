"""Push an exported folder to the Hugging Face Hub: private unless asked otherwise, and seen whole or not at all.

The files are uploaded first, large ones by hf_xet where it is installed, then one commit makes all of them visible.
The endpoint is HF_ENDPOINT's, the token HF_TOKEN's or that of `hf auth login`; it is never printed.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile, constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects, validate_repo_id

from lite_huatuo import hub_access, manifest
from lite_huatuo.errors import ExportError

# What an update removes where the new folder has no such file: old weights beside the new ones would be read.
OWN = ("*.safetensors", "*.safetensors.index.json", "*.gguf", "adapter_config.json", "Modelfile")
UNFINISHED = (".*.tmp", ".*.part")  # what a kill leaves of a file that was being written
CLIENT = hub_access.client_error()
OUTSIDE = (HfHubHTTPError, HFValidationError, CLIENT, OfflineModeIsEnabled, OSError)
LOGIN = "set HF_TOKEN to a token that may write, or run `hf auth login`"
NOTHING = "nothing was published; run the same command again, what was uploaded is not uploaded again"
PAUSES = (0, 2, 8)  # seconds before the Hub is asked whether a commit was made whose answer did not come


class Place(NamedTuple):
    """A repository that is there: `holds` is the commit that has these very files already, if there is one."""

    private: bool
    holds: str | None
    tagged: bool


def files(folder: Path) -> dict[str, int]:
    """Return {path in the repository: bytes} of what a push uploads."""
    found = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    kept = filter_repo_objects(found, ignore_patterns=[*DEFAULT_IGNORE_PATTERNS, *UNFINISHED])
    return {path: (folder / path).stat().st_size for path in kept}


def check(
    folder: Path,
    repo: str,
    *,
    private: bool = True,
    update: bool = False,
    revision: str | None = None,
    tag: str | None = None,
) -> None:
    """Refuse what `push` would refuse, before there is anything to push: offline, token, name, an existing repository.

    Nothing is sent. Where `folder` is there already, only `push` can tell whether the repository holds just that.
    """
    with _told(repo):
        api = _api()
        _check_rights(api, repo)
        if not folder.exists():
            _look(api, folder, repo, private=private, update=update, revision=revision, tag=tag)


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

    An existing repository with other files in it is refused unless `update`, a public one if `private`; one that holds
    these very files is left as it is. `revision`: commit to this branch, made if need be, and leave main alone. `tag`
    names the commit.
    """
    with _told(repo):
        api = _api()
        _check_rights(api, repo)
        place = _look(api, folder, repo, private=private, update=update, revision=revision, tag=tag)
        if place is None:
            api.create_repo(repo, private=private)
        elif place.private and not private:
            note(f"{repo}: is private and stays so; its settings page changes that")
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        if place is not None and place.holds is not None:
            note(f"{repo}: holds these files already")
            commit = place.holds
        else:
            note(f"{repo}: uploading {len(files(folder))} files")
            commit = _upload(api, folder, repo, private=private, revision=revision)
        address = f"{api.endpoint}/{repo}/commit/{commit}"
        if tag is not None and not (place and place.tagged):
            _tag(api, repo, tag, commit, address)
    return address


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """Turn what the outside does wrong into one line."""
    try:
        yield
    except OUTSIDE as error:
        raise ExportError(_message(repo, error)) from None
    except RuntimeError as error:  # of hf_xet itself, or what huggingface_hub wraps while a large file is uploaded
        if error.__cause__ is not None and not isinstance(error.__cause__, OUTSIDE):
            raise
        raise ExportError(_message(repo, error.__cause__ or error)) from None


def _api() -> HfApi:
    if constants.is_offline_mode():
        raise ExportError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it")
    token = get_token()
    if not token:
        raise ExportError(f"no Hub token; {LOGIN}")
    return HfApi(token=token)


def _check_rights(api: HfApi, repo: str) -> None:
    """Refuse what is no user/name, and a token that the Hub does not know, or that may only read."""
    if repo.count("/") != 1:
        raise ExportError(f"--push {repo}: give user/name")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ExportError(_message(repo, error)) from None
    account = api.whoami()
    role = ((account.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise ExportError(f"the Hub token of {account['name']} may only read; {LOGIN}")
    known = [account["name"], *(org["name"] for org in account.get("orgs", []))]
    if repo.partition("/")[0] not in known:
        raise ExportError(
            f"--push {repo}: {account['name']} is not in {repo.partition('/')[0]}; yours: {', '.join(known)}"
        )


def _look(
    api: HfApi, folder: Path, repo: str, *, private: bool, update: bool, revision: str | None, tag: str | None
) -> Place | None:
    """Return what is there, None where there is no such repository; refuse one that must not be changed."""
    try:
        main = api.model_info(repo)
    except RepositoryNotFoundError:
        return None
    _refuse_public(repo, main, private)
    head = main
    if revision is not None:
        with suppress(RevisionNotFoundError):  # it will be made, and begin as main is
            head = api.model_info(repo, revision=revision)
    holds = head.sha if _holds(api, folder, repo, str(head.sha)) else None
    there = {sibling.rfilename for info in (main, head) for sibling in info.siblings or []}
    if holds is None and not update and not there <= {".gitattributes"}:
        raise ExportError(f"{repo}: exists already; replace its files with --update, or push to another name")
    tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo).tags} if tag is not None else {}
    if tag in tags and tags[tag] != holds:
        raise ExportError(f"{repo}: has a tag {tag} already; choose another --tag")
    return Place(bool(main.private), holds, tag in tags)


def _refuse_public(repo: str, info: Any, private: bool) -> None:
    """Refuse to publish for everyone what was not meant for everyone."""
    if private and not info.private:
        raise ExportError(
            f"{repo}: is public, so everyone would see this model, and --public was not given; nothing was published; "
            "give --public if it is meant, or make the repository private on its settings page"
        )


def _holds(api: HfApi, folder: Path, repo: str, commit: str) -> bool:
    """True where a commit has the very files of a folder, and no old weights beside them."""
    new = files(folder)
    entries = api.list_repo_tree(repo, recursive=True, revision=commit)
    there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    if not new or any(path not in there or there[path].size != size for path, size in new.items()):
        return False
    small_first = sorted(new, key=lambda path: new[path])
    return not _outdated(there, new) and all(_same(folder / path, there[path]) for path in small_first)


def _same(path: Path, entry: RepoFile) -> bool:
    """True where a file of the Hub has a local file's content; the Hub tells git's digest of small ones."""
    if entry.lfs is not None:
        return manifest.digest(path) == entry.lfs.sha256
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == entry.blob_id


def _outdated(there: Iterable[str], new: dict[str, int]) -> list[str]:
    """Return the files of an older model that the new folder does not replace."""
    return [path for path in filter_repo_objects(there, allow_patterns=list(OWN)) if path not in new]


def _upload(api: HfApi, folder: Path, repo: str, *, private: bool, revision: str | None) -> str:
    """Upload what is not there yet, then commit all of it, unless someone else has committed meanwhile.

    Not by upload_folder: with hf_xet it cuts what is large or was refused into several commits, each of them seen.
    """
    head, new = api.model_info(repo, revision=revision), files(folder)
    _refuse_public(repo, head, private)  # again: an organisation may make what is new public, and settings change
    old = _outdated((sibling.rfilename for sibling in head.siblings or []), new)
    try:
        made = api.create_commit(
            repo_id=repo,
            operations=[
                *(CommitOperationDelete(path) for path in old),
                *(CommitOperationAdd(path, folder / path) for path in new),
            ],
            revision=revision,
            parent_commit=head.sha,
            commit_message="Upload a model exported by lite-huatuo",
        )
    except (HfHubHTTPError, CLIENT) as error:
        found = _made_nevertheless(api, folder, repo, revision, str(head.sha), error) if _of_commit(error) else None
        if found is None:
            raise
        return found
    return str(made.oid)


def _of_commit(error: Any) -> bool:
    """True where the request that failed was the commit itself, not an upload before it."""
    try:
        address = error.request.url.raw_path.decode()
    except RuntimeError:  # the client's word for an error without a request
        return False
    return re.search(r"/commit/[^/?]+(\?|$)", address) is not None


def _made_nevertheless(
    api: HfApi, folder: Path, repo: str, revision: str | None, before: str, error: Exception
) -> str | None:
    """Return the commit that was made although its answer got lost or was an error; None where there is none.

    A Hub that broke off may still be at work, so it is asked more than once.
    """
    answered = False
    open_end = (_status(error) or 500) >= 500
    for pause in PAUSES if open_end else PAUSES[:1]:
        time.sleep(pause)
        try:
            now = str(api.model_info(repo, revision=revision).sha)
            if now != before:
                return now if _holds(api, folder, repo, now) else None
            answered = True
        except OUTSIDE:
            answered = False
    if not answered:
        raise ExportError(
            f"{repo}: {_reason(error)} at the last step, and cannot be asked whether the files are published; run the "
            "same command again, which finds out"
        )
    return None


def _tag(api: HfApi, repo: str, tag: str, commit: str, address: str) -> None:
    try:
        api.create_tag(repo, tag=tag, revision=commit)
    except OUTSIDE as error:
        raise ExportError(
            f"{repo}: published at {address}, but the tag {tag} is missing ({_reason(error)}); run the same command "
            "again"
        ) from None


def _status(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None


def _reason(error: BaseException) -> str:
    """Return in a few words what happened; never the request, which holds the token."""
    status = _status(error)
    if status is not None and status >= 500:
        return f"the Hub answered {status}"
    if status is not None:
        said = getattr(error, "server_message", None) or ""
        return f"the Hub refused ({status}{': ' + said if said else ''})"
    return f"{constants.ENDPOINT} cannot be reached ({type(error).__name__})"


def _message(repo: str, error: BaseException) -> str:
    """Return what happened and what to do."""
    status = _status(error)
    if status == 401:
        return f"{repo}: the Hub does not know this token; {LOGIN}"
    if status == 403:
        return f"{repo}: this token may not write there; {LOGIN}"
    if status in (409, 412):
        return f"{repo}: was changed by someone else meanwhile; nothing was published; look at it and run again"
    if isinstance(error, HFValidationError):
        return f"--push {repo}: {str(error).splitlines()[0]}"
    if status is not None or isinstance(error, (CLIENT, OfflineModeIsEnabled)):
        return f"{repo}: {_reason(error)}; {NOTHING}"
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
