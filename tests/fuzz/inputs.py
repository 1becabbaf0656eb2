"""What fuzzing begins with: a few inputs for each target, and the words of its language."""

from __future__ import annotations

import math
import re
import struct

from lite_huatuo.response_format import RESPONSE_HEADING, THINKING_HEADING, render


def framed(header: str, body: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file with this header and a length told for it."""
    head = header.encode("utf-8", "surrogatepass")
    return (len(head) if length is None else length).to_bytes(8, "little") + head + body


def claims(choices: bytes) -> str:
    """Return a safetensors header that follows from the bytes: types, shapes and places of up to four tensors.

    A small byte is a number, a large one a large or negative number; a tensor fits its place unless a byte says else.
    """
    chosen = iter(choices)

    def number() -> int:
        byte = next(chosen, 0)
        return byte if byte < 200 else (1 << (byte - 200)) - 1 if byte < 254 else 200 - byte

    entries, place = [], 0
    for _ in range(1 + number() % 4):
        kind, begin = KINDS[number() % len(KINDS)], place + number()
        shape = [number() for _ in range(number() % 4)]
        end = begin + math.prod(shape) * int(re.sub(r"\D", "", kind.partition("_")[0]) or 8) // 8 + number()
        entries.append(
            f'"{chr(97 + len(entries))}":{{"dtype":"{kind}","shape":{shape},"data_offsets":[{begin},{end}]}}'
        )
        place = end
    return "{" + ",".join(entries) + "}"


def gguf_string(text: bytes) -> bytes:
    """Return a GGUF string."""
    return struct.pack("<Q", len(text)) + text


def gguf_file(
    *, tensors: int = 1, values: int = 3, offset: int = 0, shape: tuple[int, ...] = (4, 2), blocks: int = 1
) -> bytes:
    """Return a whole GGUF file of one float32 tensor "t", whose header claims what is given."""
    head = b"GGUF" + struct.pack("<IQQ", 3, tensors, values)
    head += gguf_string(b"general.architecture") + struct.pack("<I", 8) + gguf_string(b"llama")
    head += gguf_string(b"llama.block_count") + struct.pack("<II", 4, blocks)
    head += gguf_string(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + gguf_string(b"a") + gguf_string(b"b")
    head += gguf_string(b"t") + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", 0, offset)
    return head + bytes(-len(head) % 32) + bytes(32)


KINDS = ("F32", "BF16", "F16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "F4", "X")
SHORT_RECIPE = b"name: x\nbase: {model: a/b, max_length: 40}\ndata: {sft: s.jsonl, problems: p.jsonl}\n"
TENSOR = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
SEEDS: dict[str, list[bytes]] = {
    "form": [render("I think.", "B").encode(), b"## Thinking\n\na\n## Final Response \n\xffb"],
    "replies": [
        b'<think>x</think>```json\n{"steps": [{"action": "think", "title": "t", "content": "c"}], "conclusion": ""}```',
        b'Sure: {"correct": "True", "more": [1.5e3, null, {"a": [false]}]}\xff\xe4\xb8\xad "q" \\u00e9',
        b'{"question": "a\\nb", "ground_truth": "\\ud83d\\ude00",}',
    ],
    "recipe": [
        SHORT_RECIPE,
        SHORT_RECIPE + b"ppo: {kl_coef: 5e-2, rollout: {episodes: 4}}\nsft: {epochs: 1.0}\xffppo.clip_range=.2",
        b"name: &a x\nbase: {model: *a}\ndata: {sft: s, problems: p, mix: {a: 1}}\nverifier: {kind: ensemble}",
    ],
    "jsonl": [
        b'{"id": "1", "question": "", "ground_truth": "x"}\n\n{"Question": "q", "Complex_CoT": "t", "Response": ""}\n',
        b'{"question": "Q", "options": {"A": "x", "B": "y"}, "answer_idx": "B", "answer": "y"}\n{"a": [{"b": null}]}',
        b'{"question": "Q", "opa": "x", "opb": "y", "opc": "z", "opd": "w", "cop": 2}\r\n[1]\n{"id": "\xe2\x80\xa8"}',
    ],
    "exact": [
        b"What is it?\xffThe diagnosis is acute myocardial infarction (MI), not a PE.\xffMyocardial infarction/MI",
        b"Which of these is not a sign?\xffNo, it is 0.5 g; or twenty-two mg.\xff500 mg and vitamin B12 (type II)",
        "诊断是什么？".encode() + b"\xff" + "## 最终答案：痛风。".encode() + b"\xff" + "痛风、高血压".encode(),
    ],
    "reading": [
        b"## Thinking\n\nA or B?\n\n## Final Response\n\nThe answer is **B**.\xffgout\xffrenal stone\xffsepsis",
        b"I would choose (C) sepsis, not A. \\boxed{\\text{C}}\xffgout\xffrenal stone\xffsepsis\xffgout and sepsis",
        "答案是Ｂ、Ｄ，排除A。".encode() + b"\xff" + "痛风".encode() + b"\xffb\xffc\xffd",
    ],
    "safetensors": [
        b"\0\0\0\1\2\xff" + bytes(8),
        b"\1\1\0\0\0\1\0\1\3\xff" + bytes(8),
        b"\2\2\0\0\0\3\0\1\xfe\xff",
        b"\xff" + framed(TENSOR, bytes(8), 1 << 60),
    ],
    "gguf": [gguf_file(), gguf_file(shape=(8,))],
    "body": [bytes([1, 0, 0, 0, 100, 50, 150, 0, 0]) + b" So it is B.", bytes([4, 5, 3, 0, 9, 0, 90]), bytes([11, 0])],
}
WORDS: dict[str, list[str]] = {
    "body": ["<think>", "</think>", "assistantfinal", "<|channel|>final<|message|>", "[/THINK]", "\x00", "\n", "B."],
    "gguf": [
        "GGUF",
        "general.alignment",
        "llama.",
        "block_count",
        "vocab_size",
        "embedding_length",
        "tokenizer.ggml.tokens",
    ],
    "form": [
        THINKING_HEADING,
        RESPONSE_HEADING,
        "\n",
        "\r\n",
        " ",
        ":",
        "a",
        "\u2028",
        "\x1c",
        "\x85",
        "## ",
        "\ufeff",
    ],
    "replies": [
        '{"',
        '":',
        "{",
        "}",
        "[",
        "]",
        ",",
        "null",
        "true",
        "1e999",
        "-0.0",
        "<think>",
        "</think>",
        "```json",
        '"correct"',
        '"steps"',
        '"conclusion"',
        '"action"',
        '"think"',
        "\\ud83d",
        "\\u0000",
        "\\",
        "YES",
        "No.",
    ],
    "recipe": [
        "name: ",
        "base",
        "ppo",
        "data",
        ": ",
        "\n",
        "  ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "<<: *a",
        "!!python/object:os.system",
        "!!binary ",
        "!!set ",
        "!!timestamp ",
        "2020-01-01",
        ".nan",
        ".inf",
        "1e400",
        "5e-7",
        "null",
        "~",
        "yes",
        "? ",
        "|\n",
        ">\n",
        "---\n",
        "%YAML 1.1\n",
        "'",
        '"',
    ],
    "jsonl": [
        "{",
        "}",
        '"',
        ":",
        ",",
        "[",
        "]",
        "\n",
        "\r\n",
        "\u2028",
        "\x00",
        "\ufeff",
        "\\ud800",
        "NaN",
        "Infinity",
        "1e999",
        '"id"',
        '"question"',
        '"ground_truth"',
        '"options"',
        '"answer_idx"',
        '"answer"',
        '"cop"',
        '"provenance"',
        '"Response"',
        '"complex_cot"',
        "9" * 30,
    ],
    "exact": [
        "not ",
        "or ",
        "and ",
        "/",
        "(",
        ")",
        ", ",
        ". ",
        "?",
        "1999",
        "twenty",
        "hundred",
        "mg",
        "type ",
        "II",
        "vitamin ",
        "B12",
        "answer: ",
        "yes",
        "no",
        "final answer",
        "## ",
        "\n",
        "- ",
        "rather than ",
        "、",
        "不是",
        "痛风",
        "或",
        "二",
        "°",
        "µg",
        "½",
        "ß",
        "İ",
        "α",
        "\u200b",
        "¹",
    ],
    "reading": [
        "answer is ",
        "A",
        "B",
        "(c)",
        "not ",
        "or ",
        "and ",
        "\\boxed{",
        "}",
        "<answer>",
        "</answer>",
        "**",
        "\n",
        ". ",
        "gout",
        "option ",
        "however ",
        "wait ",
        "选",
        "答案是",
        "不",
        "、",
        "正确",
        "Ａ",
        "İ",
        "ﬁ",
        "I think ",
        "~~",
        "correct",
        "definitely ",
        "✅",
    ],
    "safetensors": ["\0\0\1\2\0", "\1\0\0\0", "\5\0\1\x08\0"],  # kind, gap, rank, shape, more
}
