"""A Xet store on loopback: what hf_xet asks of one to upload a large file and to load it back, in plain Python.

A file is cut into chunks. Chunks travel in xorbs, each chunk packed on its own; a shard says which chunks of which
xorbs make a file. Formats and addresses are those of https://huggingface.co/docs/xet, version 1: a client that asks
for a newer version, or for chunks known from elsewhere, is answered 404 and goes on without.

The store is strict: lengths must add up, and a file must unpack to the SHA-256 that its shard names.
"""

from __future__ import annotations

import hashlib
import re
import struct
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from tests.mini_hub_repo import HubError

if TYPE_CHECKING:
    from tests.mini_hub import Handler

READ, WRITE = "xet_read_secret", "xet_write_secret"
SIGNATURE = "?Signature=xet_signed"  # at the end of a xorb's address: who has the address may read
SHARD_TAG = b"HFRepoMetaData\0"
ENTRY = 48  # bytes: each record of a shard
BOOKEND = b"\xff" * 32  # stands where the next hash would: the section ends
WITH_VERIFICATION, WITH_SHA256 = 1 << 31, 1 << 30
RAW, LZ4, GROUPED_LZ4 = 0, 1, 2  # how a chunk is packed


class Chunk(NamedTuple):
    """One chunk of a xorb: the bytes [start, end) of the xorb with its header, unpacked `length` bytes."""

    start: int
    end: int
    packing: int
    length: int


class Term(NamedTuple):
    """A piece of a file: the chunks [first, last) of a xorb, `length` bytes unpacked."""

    xorb: str
    first: int
    last: int
    length: int


class XetFile(NamedTuple):
    """How a file is put together, and what it must be."""

    terms: list[Term]
    sha256: str


def hash_text(raw: bytes) -> str:
    """Return a hash of 32 bytes as it is written in addresses: four numbers, each with its low byte first."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def read_xorb(data: bytes) -> list[Chunk]:
    """Return a xorb's chunks. Header: version, packed length (3 bytes), packing, unpacked length (3 bytes)."""
    chunks, at = [], 0
    while at < len(data) and data[at : at + 7] != b"XETBLOB":  # where a footer begins
        packed, length = (int.from_bytes(data[at + first : at + first + 3], "little") for first in (1, 5))
        chunk = Chunk(at, at + 8 + packed, data[at + 4], length)
        if data[at] != 0 or chunk.end > len(data) or chunk.packing > GROUPED_LZ4:
            raise HubError(400, f"no xorb: a bad chunk header at {at}")
        chunks.append(chunk)
        at = chunk.end
    return chunks


def read_shard(data: bytes) -> dict[str, XetFile]:
    """Return {file hash: file} of a shard. What it says about xorbs beyond that is for deduplication."""
    if not data.startswith(SHARD_TAG):
        raise HubError(400, "no shard")
    records = (data[at : at + ENTRY] for at in range(ENTRY, len(data), ENTRY))
    files = {}
    for head in records:
        if head.startswith(BOOKEND):
            return files
        flags, count = struct.unpack("<2I", head[32:40])
        terms = []
        for record in (next(records) for _ in range(count)):
            length, first, last = struct.unpack("<3I", record[36:48])
            terms.append(Term(hash_text(record[:32]), first, last, length))
        if flags & WITH_VERIFICATION:
            for _ in range(count):
                next(records)
        if not flags & WITH_SHA256:
            raise HubError(400, "the Hub asks for a file's SHA-256 in its shard")
        files[hash_text(head[:32])] = XetFile(terms, hash_text(next(records)[:32]))
    raise HubError(400, "a shard that does not end")


def unpack(chunk: Chunk, xorb: bytes) -> bytes:
    """Return a chunk's own bytes."""
    data = xorb[chunk.start + 8 : chunk.end]
    if chunk.packing != RAW:
        data = unpack_lz4(data)
    if chunk.packing == GROUPED_LZ4:
        # every fourth byte stands together: all first ones, all second ones ...
        plain, at = bytearray(len(data)), 0
        for lane in range(4):
            size = len(range(lane, len(data), 4))
            plain[lane::4] = data[at : at + size]
            at += size
        data = bytes(plain)
    if len(data) != chunk.length:
        raise HubError(400, f"a chunk has {len(data)} bytes, not {chunk.length}")
    return data


def unpack_lz4(data: bytes) -> bytes:
    """Return the content of an LZ4 frame (https://github.com/lz4/lz4/tree/dev/doc); checksums are not looked at."""
    flags = data[4]
    at = 7 + (8 if flags & 8 else 0)
    out = bytearray()
    while size := int.from_bytes(data[at : at + 4], "little"):
        block = data[at + 4 : at + 4 + (size & 0x7FFFFFFF)]
        at += 4 + len(block) + (4 if flags & 16 else 0)
        if size >> 31:
            out += block
        else:
            _unpack_block(block, out)
    return bytes(out)


def _unpack_block(block: bytes, out: bytearray) -> None:
    """Append a block's content: over and over some literal bytes, then a copy of what was there before."""
    rest = iter(block)

    def more(length: int) -> int:
        while length >= 15 and (byte := next(rest)) is not None:
            length += byte
            if byte != 255:
                break
        return length

    for token in rest:
        out.extend(next(rest) for _ in range(more(token >> 4)))
        low = next(rest, None)
        if low is None:
            return  # the last sequence has literal bytes only
        start = len(out) - low - 256 * next(rest)
        length = more(token & 15) + 4
        while length > 0:  # a copy may reach into what it has just written
            piece = out[start : start + length]
            out += piece
            start, length = start + len(piece), length - len(piece)


class XetStore:
    """What the store holds: xorbs and their chunks, files, and {SHA-256: file hash}, which the Hub asks for."""

    def __init__(self) -> None:
        self.xorbs: dict[str, bytes] = {}
        self.chunks: dict[str, list[Chunk]] = {}
        self.files: dict[str, XetFile] = {}
        self.hashes: dict[str, str] = {}

    def spans(self, file: XetFile) -> Iterator[tuple[str, int, Chunk]]:
        """Yield (xorb, number in the xorb, chunk) of a file, in order."""
        for term in file.terms:
            if term.xorb not in self.chunks:
                raise HubError(400, f"a shard names a xorb that was not uploaded: {term.xorb}")
            found = self.chunks[term.xorb][term.first : term.last]
            if sum(chunk.length for chunk in found) != term.length:
                raise HubError(400, f"the chunks of {term.xorb} do not add up")
            yield from ((term.xorb, term.first + at, chunk) for at, chunk in enumerate(found))

    def add_file(self, name: str, file: XetFile) -> bytes:
        """Take a file up and return its content."""
        content = b"".join(unpack(chunk, self.xorbs[xorb]) for xorb, _, chunk in self.spans(file))
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise HubError(400, "content does not match its SHA-256")
        self.files[name], self.hashes[file.sha256] = file, name
        return content

    def reconstruction(self, name: str, first: int, last: int, url: str) -> dict[str, object]:
        """Say from which bytes of which xorbs at `url` the bytes [first, last] of a file are made."""
        terms: list[Term] = []
        offset, at = 0, 0
        for xorb, number, chunk in self.spans(self.files[name]):
            if at <= last and at + chunk.length > first:
                if not terms:
                    offset = first - at
                if terms and terms[-1].xorb == xorb and terms[-1].last == number:
                    terms[-1] = terms[-1]._replace(last=number + 1, length=terms[-1].length + chunk.length)
                else:
                    terms.append(Term(xorb, number, number + 1, chunk.length))
            at += chunk.length
        if not terms:
            raise HubError(416, "beyond the file's end")
        fetch: dict[str, list[dict[str, object]]] = {}
        for term in dict.fromkeys(terms):
            chunks = self.chunks[term.xorb]
            part = {"start": chunks[term.first].start, "end": chunks[term.last - 1].end - 1}
            place = {"url": f"{url}/{term.xorb}{SIGNATURE}", "url_range": part, "range": _range(term)}
            fetch.setdefault(term.xorb, []).append(place)
        said = [{"hash": term.xorb, "unpacked_length": term.length, "range": _range(term)} for term in terms]
        return {"offset_into_first_range": offset, "terms": said, "fetch_info": fetch}


def _range(term: Term) -> dict[str, int]:
    return {"start": term.first, "end": term.last}


def _token(handler: Handler, repo: str, kind: str, revision: str) -> None:
    """Hand out a short-lived key to the store, as headers and as JSON: each client reads the one or the other."""
    if kind == "write":
        handler.writer(repo)
    handler.repo(repo).resolve(revision)
    key, place, until = (WRITE if kind == "write" else READ), f"{handler.server.store_url}/_xet", int(time.time()) + 900
    headers = {"X-Xet-Cas-Url": place, "X-Xet-Access-Token": key, "X-Xet-Token-Expiration": str(until)}
    handler.answer({"casUrl": place, "accessToken": key, "exp": until}, headers=headers)


def _store(handler: Handler, *keys: str) -> XetStore:
    """Return the store to one who holds one of the keys; the Hub's own token is none."""
    if handler.headers.get("Authorization") not in {f"Bearer {key}" for key in keys}:
        raise HubError(401, "no key to the Xet store")
    assert handler.server.xet is not None
    return handler.server.xet


def _add_xorb(handler: Handler, name: str) -> None:
    store = _store(handler, WRITE)
    chunks, new = read_xorb(handler.content), name not in store.xorbs
    store.xorbs[name], store.chunks[name] = handler.content, chunks
    handler.answer({"was_inserted": new})


def _add_shard(handler: Handler) -> None:
    store = _store(handler, WRITE)
    for name, file in read_shard(handler.content).items():
        handler.server.blobs[file.sha256] = store.add_file(name, file)
    handler.answer({"result": 1})


def _reconstruct(handler: Handler, name: str) -> None:
    store = _store(handler, READ, WRITE)
    if name not in store.files:
        raise HubError(404, "no such file")
    part = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range") or "bytes=0-9999999999")
    if part is None:
        raise HubError(400, "not such a range")
    url = f"{handler.server.store_url}/_xet/xorbs"
    handler.answer(store.reconstruction(name, int(part[1]), int(part[2]), url))


def _get_xorb(handler: Handler, name: str) -> None:
    """Give out part of a xorb: its address is the key."""
    if handler.headers.get("Authorization"):
        raise HubError(400, "a signed address wants no key")
    assert handler.server.xet is not None
    handler.answer_part(handler.server.xet.xorbs[name], name)


def link(handler: Handler, repo: str, commit: str, oid: str) -> dict[str, str]:
    """Return the headers that tell a client to load a large file from the store; none where it is not there."""
    store = handler.server.xet
    if store is None or oid not in store.hashes:
        return {}
    route = f"{handler.server.url}/api/models/{repo}/xet-read-token/{commit}"
    return {"X-Xet-Hash": store.hashes[oid], "Link": f'<{route}>; rel="xet-auth"'}


NAME = r"(?P<name>[0-9a-f]{64})"
ROUTES: list[tuple[str, re.Pattern[str], Callable[..., None]]] = [
    (method, re.compile(pattern), function)
    for method, pattern, function in (
        ("GET", r"/api/models/(?P<repo>.+)/xet-(?P<kind>read|write)-token/(?P<revision>[^/]+)", _token),
        ("POST", rf"/_xet/v1/xorbs/default/{NAME}", _add_xorb),
        ("POST", r"/_xet/v1/shards", _add_shard),
        ("GET", rf"/_xet/v1/reconstructions/{NAME}", _reconstruct),
        ("GET", rf"/_xet/xorbs/{NAME}", _get_xorb),
    )
]
