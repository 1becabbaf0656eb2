"""JSON Lines: nothing a record holds breaks a line, a killed write costs only itself, and errors tell file and line."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lite_huatuo import jsonl
from lite_huatuo.errors import RecordError

# Characters at which str.splitlines cuts, and the byte order mark.
SEPARATORS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\ufeff"
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | st.text(SEPARATORS + "a麻")
ROWS = st.lists(
    st.dictionaries(
        TEXT,
        TEXT
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.booleans()
        | st.none()
        | st.lists(TEXT, max_size=2),
        max_size=3,
    ),
    max_size=4,
)


def rows(path: Path) -> list[dict]:
    return [row for _, row in jsonl.iter_rows(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


@settings(max_examples=30)
@given(ROWS, ROWS)
@example([{"text": "one\u2028record\u2029still\x85the same\r\n"}], [{"文": "麻疹 😀"}])
def test_whatever_is_written_and_appended_is_read_back(written: list[dict], appended: list[dict]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        jsonl.write(path, written)
        jsonl.append(path, appended)
        assert rows(path) == written + appended
        assert path.read_bytes().count(b"\n") == len(written) + len(appended)  # one line each, other tools agree


def test_non_ascii_text_stays_readable_in_the_file(path: Path) -> None:
    jsonl.write(path, [{"answer": "麻疹"}])
    assert path.read_text("utf-8") == '{"answer": "麻疹"}\n'


def test_each_row_comes_with_its_place_and_empty_lines_count(path: Path) -> None:
    path.write_bytes(b'{"n": 1}\n\n  \n{"n":\r2}\r\n{"n": 3}')  # a bare carriage return ends no line
    assert list(jsonl.iter_rows(path)) == [(f"{path}:1", {"n": 1}), (f"{path}:4", {"n": 2}), (f"{path}:5", {"n": 3})]


@pytest.mark.parametrize(
    ("content", "place", "told"),
    [
        (b'{"n": 1}\n{"n": \n', ":2", "not valid JSON"),
        (b'{"n": 1}\n\n{"n": 2', ":3", "fix or remove this line"),
        (b"[1]\n", ":1", "found list; name the file .json if it holds one array"),
        (b'{"n": 1}\n"text"\n', ":2", "expected a JSON object, found str"),
        (b"null\n", ":1", "found NoneType"),
        ('{"n": 1}\n{"n": "Sjögren"}\n'.encode("latin-1"), ":2", "not UTF-8 text"),
        (b'{"n": 1}\n{"n": ' + b"[" * 100_000, ":2", "too deep inside one another"),
    ],
)
def test_a_damaged_line_is_told_with_file_and_line(path: Path, content: bytes, place: str, told: str) -> None:
    path.write_bytes(content)
    with pytest.raises(RecordError) as caught:
        rows(path)
    assert str(caught.value).startswith(f"{path}{place}: ")
    assert told in str(caught.value)


def test_good_lines_before_a_damaged_one_are_read(path: Path) -> None:
    """A whole block was decoded at once: the good lines before a bad byte were lost with it."""
    path.write_bytes(b'{"n": 1}\n{"n": 2}\n\xff\n{"n": 4}\n')
    found = jsonl.iter_rows(path)
    assert [next(found)[1], next(found)[1]] == [{"n": 1}, {"n": 2}]
    with pytest.raises(RecordError, match=":3: not UTF-8 text"):
        next(found)


def test_an_editors_mark_at_the_beginning_of_a_file_is_no_content(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + b'{"n": 1}\n')
    assert rows(path) == [{"n": 1}]
    assert jsonl.read_text(path) == '{"n": 1}\n'


@pytest.mark.parametrize("read", [jsonl.iter_rows, jsonl.read_text])
def test_a_missing_file_a_folder_and_a_path_through_a_file_are_told(tmp_path: Path, read) -> None:
    (tmp_path / "file").write_text("")
    for path, told in [
        (tmp_path / "none.jsonl", "no such file"),
        (tmp_path, "is a folder; name the file in it"),
        (tmp_path / "file" / "rows.jsonl", "cannot be read"),
    ]:
        with pytest.raises(RecordError) as caught:
            list(read(path))
        assert str(caught.value).startswith(f"{path}: {told}")


@settings(max_examples=30)
@given(ROWS.filter(bool), st.data())
def test_a_write_killed_anywhere_costs_only_the_row_it_wrote(written: list[dict], data) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        jsonl.write(path, written)
        whole = path.read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut])  # in the middle of a character, too
        jsonl.append(path, [{"after": "the kill"}])
        assert rows(path) == [*written[: whole[:cut].count(b"\n")], {"after": "the kill"}]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"n": 1}\n{"n": 2}\n{"n"', b'{"n": 1}\n{"n": 2}\n'),
        (b'{"n": 1}\n{"n": 2}', b'{"n": 1}\n'),  # whole JSON, but its line end never came
        (b'{"n', b""),
        (b"", b""),
        (b'{"n": 1}\n', b'{"n": 1}\n'),
    ],
)
def test_a_torn_tail_is_dropped_and_nothing_else(path: Path, before: bytes, after: bytes) -> None:
    path.write_bytes(before)
    jsonl.drop_torn_tail(path)
    assert path.read_bytes() == after


def test_dropping_the_tail_of_a_missing_file_makes_none(path: Path) -> None:
    jsonl.drop_torn_tail(path)
    assert not path.exists()


def test_an_append_is_on_the_disk_before_it_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    jsonl.append(path, [{"n": 1}, {"n": 2}])
    assert synced == [path.stat().st_size]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    jsonl.write(path, [{"old": 1}])

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, broken, fail)
        with pytest.raises(OSError, match="No space left"):
            jsonl.write(path, [{"new": 1}])
    assert rows(path) == [{"old": 1}]
    assert [child.name for child in path.parent.iterdir()] == [path.name], "nothing half-written is left"
    jsonl.write(path, [{"new": 2}])
    assert rows(path) == [{"new": 2}]


def test_a_row_that_is_no_json_leaves_the_old_file(path: Path) -> None:
    jsonl.write(path, [{"old": 1}])
    for bad in ({"n": float("nan")}, {"n": float("inf")}, {"n": object()}):
        with pytest.raises((ValueError, TypeError)):
            jsonl.write(path, [{"new": 1}, bad])
    assert rows(path) == [{"old": 1}]


def test_the_new_file_takes_the_old_ones_place_only_when_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonl.write(path, [{"old": 1}])
    seen = []
    replace = os.replace

    def watch(source: Path, target: Path) -> None:
        seen.append((source.read_text("utf-8"), source.parent == target.parent, rows(target)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    jsonl.write(path, [{"new": 1}])
    assert seen == [('{"new": 1}\n', True, [{"old": 1}])]


def test_keep_rewrites_with_the_wanted_rows_and_without_a_torn_tail(path: Path) -> None:
    path.write_bytes(b'{"n": 1}\n{"n": 2}\n{"n": 3}\n{"n": 1')
    jsonl.keep(path, lambda row: row["n"] != 2)
    assert path.read_bytes() == b'{"n": 1}\n{"n": 3}\n'


def test_keep_leaves_a_missing_file_missing(path: Path) -> None:
    jsonl.keep(path, lambda row: True)
    assert not path.exists()


@given(ROWS)
def test_a_sealed_row_is_told_from_a_changed_one(rows: list[dict]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        jsonl.append(path, map(jsonl.sealed, rows))
        kept = [row for _, row in jsonl.iter_sealed(path)] if path.exists() else []
        assert [row | {"check": 0} for row in kept] == [row | {"check": 0} for row in rows]
        jsonl.append(path, [{**jsonl.sealed({"a": 1}), "a": 2}])
        with pytest.raises(RecordError, match=rf"rows.jsonl:{len(rows) + 1}: changed since it was written"):
            list(jsonl.iter_sealed(path))
