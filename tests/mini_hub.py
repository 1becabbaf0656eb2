"""A Hugging Face Hub on loopback, for models and data sets: what its clients ask for to create, upload, tag and load.

    with MiniHub() as hub: ...          # clients: HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET=1
    with MiniHub(xet=True) as hub: ...  # with a Xet store beside it (tests/mini_xet.py)

Repositories live in memory, named as in addresses: org/name, data sets datasets/org/name. `hub.faults` breaks what a
test wants broken: functions (method, path) -> status to answer, "cut" to drop the connection in the middle of the
request, "lost" to do what is asked and drop the connection instead of the answer, or None.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests import mini_xet
from tests.mini_hub_repo import HubError, Repo, entry, git_oid, list_folder

SIGNED = "Signature=signed-for-one-reader"  # of the addresses from which large files are read
DATE = "2026-01-01T00:00:00.000Z"


class MiniHub(ThreadingHTTPServer):
    """The server. `tokens`: {token: (user, role)}; `large`: bytes from which a file is uploaded as a large one."""

    def __init__(self, tokens: dict[str, tuple[str, str]] | None = None, large: int = 1000, xet: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tokens = tokens or {"hf_test": ("tester", "write")}
        self.large = large
        self.xet = mini_xet.XetStore() if xet else None
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []
        self.faults: list[Callable[[str, str], int | str | None]] = []
        self.lock = threading.RLock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        # Another name for the same socket: a client stops at a redirect to another host, as at the real Hub's store.
        self.store_url = f"http://localhost:{self.server_address[1]}"

    def __enter__(self) -> MiniHub:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: MiniHub

    def log_message(self, *_: Any) -> None: ...

    def handle_any(self) -> None:
        address = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(address.query).items()}
        path = unquote(address.path).replace("/api/datasets/", "/api/models/datasets/", 1)
        self.server.log.append((self.command, path))
        fault = next(filter(None, (fault(self.command, path) for fault in self.server.faults)), None)
        if fault == "cut":
            self.rfile.read(min(100, int(self.headers.get("Content-Length") or 0)))
            self.close_connection = True
            self.connection.close()
            return
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.lost = fault == "lost"
        with self.server.lock, contextlib.suppress(BrokenPipeError):
            try:
                if fault and not self.lost:
                    raise HubError(int(fault), "a fault of the test")
                self._route(path)
            except HubError as error:
                headers = {"X-Error-Message": str(error), **({"X-Error-Code": error.code} if error.code else {})}
                self.answer({"error": str(error), **error.more}, error.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def _route(self, path: str) -> None:
        for methods, pattern, function in ROUTES + (mini_xet.ROUTES if self.server.xet else []):
            match = pattern.fullmatch(path)
            if match and ("GET" if self.command == "HEAD" else self.command) in methods:
                function(self, **match.groupdict())
                return
        raise HubError(404, f"no such endpoint here: {self.command} {path}")

    def answer(self, data: Any = None, status: int = 200, headers: dict[str, str] | None = None) -> None:
        if self.lost:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = data if isinstance(data, bytes) else json.dumps({} if data is None else data).encode()
        self.send_response(status)
        head = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        for key, value in head.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def user(self) -> tuple[str, str] | None:
        """Return (name, role) of who asks, None for anonymous ones."""
        token = re.match(r"Bearer (.+)", self.headers.get("Authorization") or "")
        if token is None:
            return None
        if token[1] not in self.server.tokens:
            raise HubError(401, "Invalid username or password.")
        return self.server.tokens[token[1]]

    def writer(self, repo: str | None = None) -> str:
        user = self.user()
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if user[1] == "read" or (repo and repo.split("/")[-2] != user[0]):
            raise HubError(403, "You don't have the rights to write here")
        return user[0]

    def repo(self, name: str) -> Repo:
        found, user = self.server.repos.get(name), self.user()
        if found is None or (found.private and user is None):
            # as the real Hub: 401 for an unknown or hidden one when anonymous, 404 when signed in
            raise HubError(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return found

    def whoami(self) -> None:
        user = self.user()
        if user is None:
            raise HubError(401, "Who are you?")
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": user[1]}}
        self.answer({"type": "user", "name": user[0], "orgs": [], "auth": auth})

    def validate(self) -> None:
        """Say what is wrong with a card's metadata; the real Hub knows its keys too."""
        card = re.match(r"---\n(.*?)\n---", json.loads(self.content)["content"], re.DOTALL)
        try:
            good = card is not None and isinstance(yaml.safe_load(card[1]), dict)
        except yaml.YAMLError:
            good = False
        self.answer({"errors": [] if good else [{"message": "no metadata"}], "warnings": []}, 200 if good else 400)

    def create(self) -> None:
        wanted = json.loads(self.content)
        name = f"{wanted.get('organization') or self.writer()}/{wanted['name']}"
        place = f"datasets/{name}" if wanted.get("type") == "dataset" else name
        self.writer(place)
        said = {"url": f"{self.server.url}/{place}", "name": name, "id": name}
        if place in self.server.repos:
            raise HubError(409, "You already created this repo", **said)
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.server.repos[place] = Repo(place, bool(private))
        self.answer(said)

    def info(self, repo: str, revision: str | None = None) -> None:
        found = self.repo(repo)
        commit = found.resolve(revision or "main")
        siblings = [{"rfilename": path} for path in sorted(found.tree(commit))]
        said = {"id": repo.removeprefix("datasets/"), "sha": commit, "private": found.private, "siblings": siblings}
        self.answer({**said, "tags": [], "lastModified": DATE, "createdAt": DATE})

    def tree(self, repo: str, revision: str, folder: str | None = None) -> None:
        found = list_folder(
            self.repo(repo).tree(revision), folder or "", self.query.get("recursive", "").lower() == "true"
        )
        if folder and not found:
            raise HubError(404, f"{folder} does not exist", "EntryNotFound")
        self.answer(found)

    def paths_info(self, repo: str, revision: str) -> None:
        is_json = "json" in (self.headers.get("Content-Type") or "")
        wanted = (json.loads(self.content) if is_json else parse_qs(self.content.decode())).get("paths", [])
        tree = self.repo(repo).tree(revision)
        self.answer([entry(path, *tree[path]) for path in wanted if path in tree])

    def refs(self, repo: str) -> None:
        found = self.repo(repo)
        kinds = {"branches": ("refs/heads/", found.branches), "tags": ("refs/tags/", found.tags)}
        self.answer(
            {
                kind: [{"name": name, "ref": prefix + name, "targetCommit": c} for name, c in refs.items()]
                for kind, (prefix, refs) in kinds.items()
            }
            | {"converts": []}
        )

    def branch(self, repo: str, name: str) -> None:
        self.writer(repo)
        found = self.repo(repo)
        if name in found.branches:
            raise HubError(409, "Reference already exists")
        found.branches[name] = found.resolve(json.loads(self.content or b"{}").get("startingPoint") or "main")
        self.answer()

    def tag(self, repo: str, revision: str) -> None:
        self.writer(repo)
        found = self.repo(repo)
        found.tags[json.loads(self.content)["tag"]] = found.resolve(revision)
        self.answer()

    def preupload(self, repo: str, revision: str) -> None:
        self.writer(repo)
        tree, files = self.repo(repo).tree(revision), []
        for file in json.loads(self.content)["files"]:
            mode = "lfs" if file["size"] > self.server.large else "regular"
            old = entry(file["path"], *tree[file["path"]]) if file["path"] in tree else {"oid": None}
            oid = old["lfs"]["oid"] if "lfs" in old else old["oid"]
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer({"files": files})

    def batch(self, repo: str) -> None:
        self.repo(repo)
        objects = []
        for wanted in json.loads(self.content)["objects"]:
            found = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server.blobs:
                self.writer(repo)
                verify = {"href": f"{self.server.url}/_lfs/verify"}
                found["actions"] = {"upload": {"href": f"{self.server.url}/_lfs/{wanted['oid']}"}, "verify": verify}
            objects.append(found)
        self.answer({"transfer": "basic", "objects": objects})

    def put_blob(self, oid: str) -> None:
        if hashlib.sha256(self.content).hexdigest() != oid:
            raise HubError(400, "content does not match its oid")
        self.server.blobs[oid] = self.content
        self.answer()

    def verify(self) -> None:
        if json.loads(self.content)["oid"] not in self.server.blobs:
            raise HubError(404, "object not found")
        self.answer()

    def commit(self, repo: str, revision: str) -> None:
        self.writer(repo)
        found = self.repo(repo)
        base = found.resolve(revision)
        operations = [json.loads(line) for line in self.content.splitlines() if line.strip()]
        head = next(each["value"] for each in operations if each["key"] == "header")
        if head.get("parentCommit") not in (None, base):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(found.tree(base))
        for key, value in ((each["key"], each["value"]) for each in operations):
            if key == "file":
                tree[value["path"]] = (base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                if value["oid"] not in self.server.blobs:
                    raise HubError(400, f"a large file was not uploaded: {value['path']}")
                tree[value["path"]] = (self.server.blobs[value["oid"]], True)
            elif key == "deletedFile":
                del tree[value["path"]]
        commit = found.commit(revision, head["summary"], tree, base)
        self.answer({"success": True, "commitOid": commit, "commitUrl": f"{self.server.url}/{repo}/commit/{commit}"})

    def resolve(self, repo: str, revision: str, path: str) -> None:
        found = self.repo(repo)
        commit = found.resolve(revision)
        if path not in found.tree(commit):
            raise HubError(404, "Entry not found", "EntryNotFound")
        data, large = found.tree(commit)[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_oid(data)}"'}
        if not large:
            self.answer(data, headers=headers)
            return
        oid = hashlib.sha256(data).hexdigest()
        self.server.blobs[oid] = data
        linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{oid}"'}
        headers |= mini_xet.link(self, repo, commit, oid)
        self.answer(b"", 302, {**headers, **linked, "Location": f"{self.server.store_url}/_lfs/{oid}?{SIGNED}"})

    def get_blob(self, oid: str) -> None:
        self.answer_part(self.server.blobs[oid], oid)

    def answer_part(self, data: bytes, name: str) -> None:
        """Answer with the part of `data` that was asked for."""
        headers = {"ETag": f'"{name}"', "Accept-Ranges": "bytes"}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not part:
            self.answer(data, headers=headers)
            return
        first, last = int(part[1]), min(int(part[2] or len(data) - 1), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self.answer(data[first : last + 1], 206, headers)


R, V = r"(?P<repo>(?:datasets/)?[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
ROUTES: list[tuple[str, re.Pattern[str], Callable[..., None]]] = [
    (method, re.compile(pattern), function)
    for method, pattern, function in (
        ("GET", r"/api/whoami-v2", Handler.whoami),
        ("GET POST", r"/api/(?:telemetry/.*|agent-harnesses)", lambda handler: handler.answer()),
        ("POST", r"/api/validate-yaml", Handler.validate),
        ("POST", r"/api/repos/create", Handler.create),
        ("GET", rf"/api/models/{R}/revision/{V}", Handler.info),
        ("GET", rf"/api/models/{R}/tree/{V}(?:/(?P<folder>.+))?", Handler.tree),
        ("POST", rf"/api/models/{R}/paths-info/{V}", Handler.paths_info),
        ("GET", rf"/api/models/{R}/refs", Handler.refs),
        ("POST", rf"/api/models/{R}/branch/(?P<name>[^/]+)", Handler.branch),
        ("POST", rf"/api/models/{R}/tag/{V}", Handler.tag),
        ("POST", rf"/api/models/{R}/preupload/{V}", Handler.preupload),
        ("POST", rf"/api/models/{R}/commit/{V}", Handler.commit),
        ("GET", rf"/api/models/{R}", Handler.info),
        ("POST", rf"/{R}\.git/info/lfs/objects/batch", Handler.batch),
        ("POST", r"/_lfs/verify", Handler.verify),
        ("PUT", r"/_lfs/(?P<oid>[0-9a-f]{64})", Handler.put_blob),
        ("GET", r"/_lfs/(?P<oid>[0-9a-f]{64})", Handler.get_blob),
        ("GET", rf"/{R}/resolve/{V}/(?P<path>.+)", Handler.resolve),
    )
]
