"""The repositories of the loopback Hub: commits, branches, tags, and how files are listed."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Any

Tree = dict[str, tuple[bytes, bool]]  # path -> (content, stored as a large file)


class HubError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str, code: str = "", **more: str) -> None:
        super().__init__(message)
        self.status, self.code, self.more = status, code, more


class Repo:
    """One repository: commits {id: (parent, title, tree)}, branches and tags {name: commit}."""

    def __init__(self, name: str, private: bool) -> None:
        self.name, self.private = name, private
        self.commits: dict[str, tuple[str | None, str, Tree]] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.commit("main", "initial commit", {".gitattributes": (b"*.safetensors filter=lfs\n", False)}, None)

    def commit(self, branch: str, title: str, tree: Tree, parent: str | None) -> str:
        commit = hashlib.sha1(f"{self.name} {len(self.commits)}".encode()).hexdigest()
        self.commits[commit] = (parent, title, tree)
        self.branches[branch] = commit
        return commit

    def resolve(self, revision: str) -> str:
        commits = {**{commit: commit for commit in self.commits}, **self.tags, **self.branches}
        found = commits.get(revision)
        if found is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def tree(self, revision: str) -> Tree:
        return self.commits[self.resolve(revision)][2]

    def history(self) -> list[str]:
        """Return the titles of main's commits, newest first."""
        titles, commit = [], self.branches.get("main")
        while commit:
            parent, title, _ = self.commits[commit]
            titles.append(title)
            commit = parent
        return titles


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(path: str, data: bytes, large: bool) -> dict[str, Any]:
    """Return a file as the Hub lists it; a large one's git content is a pointer."""
    sha, size = hashlib.sha256(data).hexdigest(), len(data)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {size}\n".encode()
    lfs = {"lfs": {"oid": sha, "size": size, "pointerSize": len(pointer)}} if large else {}
    return {"type": "file", "path": path, "size": size, "oid": git_oid(pointer if large else data), **lfs}


def list_folder(tree: Tree, folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Return the entries of one folder ("" is the root), of its folders too where `recursive`."""
    under = f"{folder}/" if folder else ""
    files = {path: file for path, file in tree.items() if path.startswith(under)}
    parents = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
    folders = [path for path in parents if path.startswith(under)]
    found = [{"type": "directory", "path": path, "size": 0, "oid": git_oid(path.encode())} for path in folders]
    found += [entry(path, *file) for path, file in files.items()]
    return sorted(
        (each for each in found if recursive or "/" not in each["path"][len(under) :]), key=lambda each: each["path"]
    )
