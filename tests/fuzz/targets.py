"""What is fuzzed: for each reader of outside text, a function that takes any bytes and asserts what must hold of them.

Hypothesis (test_fuzz.py) and the coverage-guided fuzzer (coverage_guided.py) call the same functions. A check says more
than "no crash": what was read can be written and read again, a refusal is of the one promised kind and names its place.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lite_huatuo import exam_rows, jsonl, records
from lite_huatuo import recipe as recipes
from lite_huatuo.data import completion, finish, refusals, replies
from lite_huatuo.errors import BackendError, ExportError, RecipeError, RecordError, ReplyError
from lite_huatuo.evaluation import answers
from lite_huatuo.models import gguf_header
from lite_huatuo.prompts.schemas import SCHEMAS
from lite_huatuo.response_format import RESPONSE_HEADING, THINKING_HEADING, is_well_formed, parse, render
from lite_huatuo.verifier import exact, verdict_words
from lite_huatuo.verifier.base import Item
from tests.fuzz import bodies
from tests.fuzz.inputs import SEEDS, WORDS, claims, framed

SEPARATOR = b"\xff"  # between the texts that one input holds: no UTF-8 has this byte
MEMORY = Path("/dev/shm")  # files there are written and flushed without a disk
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir=MEMORY if MEMORY.is_dir() else None))


class Target(NamedTuple):
    """A check, inputs to begin with, and the words of its language."""

    check: Callable[[bytes], None]
    seeds: list[bytes]
    words: list[str]


def texts(data: bytes, count: int) -> list[str]:
    """Cut an input into texts; a byte that is no UTF-8 becomes half a character, as JSON can bring one."""
    parts = [part.decode("utf-8", "surrogateescape") for part in data.split(SEPARATOR, count - 1)]
    return parts + [""] * (count - len(parts))


def written(data: bytes, name: str) -> Path:
    """Write an input to a file."""
    path = FOLDER / name
    path.write_bytes(data)
    return path


def attempt(kind: type[Exception], read: Callable[..., Any], *arguments: Any) -> tuple[Any, str | None]:
    """Return (what was read, None) or (None, how it was refused); any other exception than `kind` goes through."""
    try:
        return read(*arguments), None
    except kind as error:
        return None, str(error)


def check_form(data: bytes) -> None:
    """A reply is well-formed exactly where it can be parsed; what was rendered parses to itself."""
    reply, response = texts(data, 2)
    sections = parse(reply)
    assert is_well_formed(reply) == (sections is not None)
    if sections is not None:
        assert all(text == text.strip() != "" for text in sections)
        assert parse(render(*sections)) == sections
    thinking, response = reply.strip(), response.strip()
    headings = {line.rstrip() for text in (thinking, response) for line in text.split("\n")}
    lettered = all(any(c.isalnum() for c in text) for text in (thinking, response))
    expected = (thinking, response) if lettered and not headings & {THINKING_HEADING, RESPONSE_HEADING} else None
    assert parse(render(thinking, response)) == expected


def check_reply(data: bytes) -> None:
    """Reading raises ReplyError or gives what the schema asks for; that, written as JSON, reads as itself."""
    text, content = texts(data, 2)
    for schema in (SCHEMAS["first"], SCHEMAS["judge_answer"], SCHEMAS["reformat"]):
        found, refusal = attempt(ReplyError, replies.read_object, text, schema)
        if refusal is not None:
            assert "\n" not in refusal
            assert len(refusal) < 1000
        else:
            assert set(found) == set(schema["properties"])
            assert replies.read_object(json.dumps(found), schema) == found
            assert replies.read_object(f"```json\n{json.dumps(found, ensure_ascii=False)}\n```", schema) == found
    attempt(ReplyError, replies.read_text, text)
    verdict_words.read(text)
    if not re.search("[\ud800-\udfff]", content):
        row = {"question": content, "ground_truth": content[::-1]}
        assert replies.read_object("So: " + json.dumps(row), SCHEMAS["reformat"]) == row


def check_recipe(data: bytes) -> None:
    """Loading raises RecipeError or gives a recipe that, written as YAML, loads as itself."""
    override = data.rpartition(SEPARATOR)[2].decode("utf-8", "surrogateescape") if SEPARATOR in data else None
    path = written(data.rpartition(SEPARATOR)[0] if override is not None else data, "recipe.yaml")
    recipe, refusal = attempt(RecipeError, recipes.load, str(path), () if override is None else (override,))
    if refusal is not None:
        assert refusal.startswith((str(path), "--set ")), refusal
    else:
        again = yaml.safe_dump(recipe.model_dump(), allow_unicode=True)
        assert recipes.load(str(written(again.encode("utf-8", "surrogatepass"), "again.yaml"))) == recipe


def check_jsonl(data: bytes) -> None:
    """Every good line before the first bad one is read, as it stands; the bad one is told by number."""
    path, rows, problem = written(data, "rows.jsonl"), [], None
    try:
        for where, row in jsonl.iter_rows(path):
            rows.append(row)
            _records(row, where)
    except RecordError as error:
        problem = str(error)
        assert problem.startswith(f"{path}:"), problem
    good, bad = _good_lines(data)
    assert json.dumps(rows) == json.dumps(good)
    assert (problem is None) == (bad is None), (problem, bad)
    if problem is not None:
        assert re.match(rf"{re.escape(str(path))}:{bad}:", problem), (problem, bad)
    jsonl.append(path, [{"id": "new"}])
    assert path.read_bytes() == data[: data.rfind(b"\n") + 1] + b'{"id": "new"}\n'


def _good_lines(data: bytes) -> tuple[list[Any], int | None]:
    """Return the rows before the first bad line, and that line's number; the plainest reader there is."""
    rows = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        try:
            text = line.decode("utf-8").removeprefix("\ufeff")
            row = json.loads(text) if text.strip() else None
        except (ValueError, RecursionError):
            return rows, number
        if text.strip() and not isinstance(row, dict):
            return rows, number
        if row is not None:
            rows.append(row)
    return rows, None


def _records(row: dict[str, Any], where: str) -> None:
    """A row is one of our records or RecordError with its place; a record's row is read as that record."""
    for read in (records.problem_from_row, records.sft_from_row, exam_rows.exam_from_row):
        record, refusal = attempt(RecordError, read, row, where)
        if refusal is not None:
            assert refusal.startswith(where), refusal
        else:
            again = json.loads(jsonl.dumps(records.to_row(record)).encode())
            assert read(again, where) == record, (record, read(again, where))


def check_exact(data: bytes) -> None:
    """The exact verifier gives the same verdict each time, and a reply that is the ground truth is right."""
    question, response, ground_truth = texts(data, 3)
    item = Item(question, response, ground_truth)
    verdict = exact.judge(item)
    exact.read_ground_truth.cache_clear()
    exact.read_question.cache_clear()
    assert exact.judge(item) == verdict
    same = exact.judge(Item(question, ground_truth, ground_truth))
    assert same.correct or same.failure, (ground_truth, same)
    assert (same.failure is None) == (verdict.failure is None)


def check_reading(data: bytes) -> None:
    """A reading holds letters of options only, sorted, each once; it is the same each time; strict is the strictest."""
    parts = texts(data, 7)
    reply, choices = parts[0], {letter: text for letter, text in zip("ABCDEF", parts[1:], strict=True) if text}
    choices = choices or {"A": "yes", "B": "no"}
    for rule in answers.RULES:
        reading = answers.read(rule, reply, choices)
        assert reading is None or (reading and list(reading) == sorted(set(reading) & set(choices))), (rule, reading)
        assert answers.read(rule, reply, choices) == reading


def check_safetensors(data: bytes) -> None:
    """A header is read or refused with the file named, whatever it claims. Before the separator: choices for a header;
    after it the bytes of the tensors, or the whole file."""
    from lite_huatuo.export import base_files

    choices, _, rest = data.partition(SEPARATOR)
    path = written(framed(claims(choices), rest) if choices else rest, "model.safetensors")
    stored, refusal = attempt(ExportError, base_files.header, path)
    assert refusal is None or refusal.startswith(str(path))
    for name, info in (stored or {}).items():
        assert base_files.rows(path, name, 0, 1).dtype == info.dtype


def check_gguf(data: bytes) -> None:
    """A header is refused with the file named, or the library that reads it finds the same tensors in it."""
    import gguf as library

    path = written(data, "model.gguf")
    header, refusal = attempt(BackendError, gguf_header.read, path)
    assert refusal is None or refusal.startswith(str(path))
    if header is not None:
        found = {tensor.name: tuple(int(n) for n in tensor.shape) for tensor in library.GGUFReader(path).tensors}
        assert found == header.tensors


def check_body(data: bytes) -> None:
    """Whatever a provider answers: a reply is kept, or the answer is refused; no text is used that was not whole, or
    that holds hidden thinking; no call is free where the endpoint sold something, or says nothing to be believed."""
    answer = bodies.made(data)
    worst = 1.0
    if completion.error_in(answer) is not None:
        assert refusals.told(answer).words or answer.get("error")
        return
    kept, refusal = attempt(completion.Fault, completion.read, answer, worst, bodies.PROFILE)
    if refusal is not None:
        return
    reason = answer["choices"][0].get("finish_reason")
    told, problem = attempt(ReplyError, completion.text_of, kept, "step", bodies.PROFILE)
    if told is not None:
        assert str(reason).lower().removeprefix("finish_reason_") in finish.NAMES["whole"], reason
        assert told.strip()
        assert told == "".join(bodies.texts(answer))
        text, refused = attempt(ReplyError, replies.read_text, told)
        assert refused is not None or bodies.HIDDEN not in text, (told, text)
        assert refused is not None or text in told
    else:
        assert problem.startswith("step: ")
    sold = bodies.sold(answer)
    assert kept.dollars >= sold, (answer, kept.dollars, sold)
    assert kept.dollars == worst or kept.usage.output or not (kept.text or "").strip()


CHECKS: dict[str, Callable[[bytes], None]] = {
    "form": check_form,
    "replies": check_reply,
    "recipe": check_recipe,
    "jsonl": check_jsonl,
    "exact": check_exact,
    "reading": check_reading,
    "safetensors": check_safetensors,
    "gguf": check_gguf,
    "body": check_body,
}
TARGETS = {name: Target(check, SEEDS[name], WORDS[name]) for name, check in CHECKS.items()}
