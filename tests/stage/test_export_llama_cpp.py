"""A GGUF file of ours in llama.cpp itself: the same tokens go in, the same greedy text comes out.

Needs llama-cpp-python, which nothing else here needs: `pip install llama-cpp-python` (it compiles for many minutes).
Then: `python -m pytest -m llama_cpp`.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lite_huatuo.export import gguf_file
from tests.stage.test_export_gguf import LLAMA_3, QUESTION, greedy, make

pytestmark = pytest.mark.llama_cpp

CASES: dict[str, dict[str, Any]] = {
    "llama": {"kind": "llama"},
    "llama, tied": {"kind": "llama", "tied": True},
    "llama 3.1": {"kind": "llama", "rope_parameters": LLAMA_3},
    "qwen2": {"kind": "qwen2"},
    "qwen2, tied": {"kind": "qwen2", "tied": True},
}


@pytest.mark.parametrize("case", CASES)
def test_f16_writes_the_same_greedy_text(tmp_path: Path, case: str) -> None:
    from llama_cpp import Llama

    folder = make(tmp_path / "model", spare=9, **CASES[case])
    gguf_file.write(folder, tmp_path / "m.gguf", "f16", name="student")
    llama = Llama(str(tmp_path / "m.gguf"), n_ctx=256, n_threads=1, logits_all=True, verbose=False)
    words = AutoTokenizer.from_pretrained(folder)
    asked = words.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    ids = words(asked)["input_ids"]
    assert llama.tokenize(asked.encode(), add_bos=False, special=True) == ids

    text, logits = greedy(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), ids)
    llama.eval(ids)
    # llama.cpp multiplies by halves; the logits' standard deviation is about 1
    torch.testing.assert_close(torch.tensor(llama.scores[: len(ids)]), logits[0], rtol=0, atol=0.01)

    llama.reset()
    written = [int(t) for t in islice(llama.generate(ids, temp=0.0, repeat_penalty=1.0), len(text) - len(ids))]
    assert written == text[len(ids) :]
    assert llama.detokenize(written).decode(errors="replace") == words.decode(written)
