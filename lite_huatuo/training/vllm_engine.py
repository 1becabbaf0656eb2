"""Replies by vLLM on the training card: the actor's adapter is handed over before each rollout, and between rollouts
the engine sleeps, its weights in CPU memory and its cache gone.

Its numbers are not quite ours (other kernels, bfloat16): PPO computes the actor's log-probabilities itself and weighs
tokens by `importance_weights`. Not run on a GPU by its authors; tests hold the calls against the sources of vLLM
0.27.1, which has a 4-bit base by bitsandbytes in its core, and of 0.33.0, which takes it from vllm-bnb-plugin.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lite_huatuo.errors import BackendError
from lite_huatuo.models.backends import LoadedBase
from lite_huatuo.models.shared_base import SharedBase
from lite_huatuo.training import checkpoint
from lite_huatuo.training.decoding import Reply

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM has kernels for
MEMORY_SHARE = 0.45  # of the card while replies are written; training has it all when the engine sleeps
OWN_4_BIT = "model_executor/layers/quantization/bitsandbytes.py"  # in vLLM's core up to 0.27


def engine_arguments(
    loaded: LoadedBase, *, quantization: str, dtype: str, max_length: int, rank: int, seed: int
) -> dict[str, Any]:
    """Return the keyword arguments of vllm.LLM; a test checks them against its source."""
    if rank > RANKS[-1]:
        raise BackendError(f"adapter.rank: {rank}; vLLM takes at most {RANKS[-1]}")
    return {
        "model": loaded.folder,
        "revision": loaded.revision,
        "trust_remote_code": False,
        "dtype": dtype,
        # NF4 with double quantization, made from the 16-bit weights on loading: the numbers of our own base
        "quantization": "bitsandbytes" if quantization == "nf4" else None,
        "max_model_len": max_length,
        "gpu_memory_utilization": MEMORY_SHARE,
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": next(size for size in RANKS if size >= rank),
        "logprobs_mode": "processed_logprobs",  # after temperature and top-p: those of the distribution sampled from
        "enable_sleep_mode": True,
        "seed": seed,  # of what the engine draws beside the replies, each of which has a seed of its own
    }


def check(quantization: str, *, dora: bool = False) -> None:
    """BackendError where vLLM, or what it needs for a base of that quantization, is not installed, or takes no adapter
    of that kind."""
    if dora:
        raise BackendError("ppo.rollout.engine: vllm takes no DoRA adapter; set adapter.dora false, or engine auto")
    found = importlib.util.find_spec("vllm")
    if found is None:
        raise BackendError("ppo.rollout.engine: vllm is not installed; run `pip install lite-huatuo[vllm]` or set auto")
    if quantization != "nf4" or importlib.util.find_spec("vllm_bnb_plugin") is not None:
        return
    if not any((Path(folder) / OWN_4_BIT).is_file() for folder in found.submodule_search_locations or ()):
        raise BackendError(
            "ppo.rollout.engine: this vllm takes a 4-bit base with vllm-bnb-plugin only, which is not installed; run "
            "`pip install lite-huatuo[vllm]` or set auto"
        )


class VllmEngine:
    """Writes replies with one adapter of a shared base."""

    def __init__(self, llm: Any, *, sleeps: bool = True) -> None:
        self.llm, self.sleeps = llm, sleeps
        self._handed_over = 0
        self._sleep()

    @classmethod
    def open(cls, loaded: LoadedBase, **arguments: Any) -> VllmEngine:
        """Start vLLM on the base's own files, or take the engine that unsloth has built around the same weights."""
        shared = getattr(loaded.model, "vllm_engine", None)
        if shared is not None:
            return cls(shared, sleeps=False)
        check(arguments["quantization"])
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # in this process, on this card
        from vllm import LLM

        before = checkpoint.random_states()
        llm = LLM(**engine_arguments(loaded, **arguments))
        checkpoint.restore_random_states(*before)  # in this process its seed becomes that of all generators
        return cls(llm)

    def decode(
        self,
        shared: SharedBase,
        adapter: str,
        queries: Sequence[list[int]],
        *,
        max_reply_length: int,
        temperature: float,
        top_p: float,
        seeds: Sequence[int],
    ) -> list[Reply]:
        """Write one reply per query (token ids) with the adapter as it is now, each drawn with its own of `seeds`;
        log-probabilities are vLLM's."""
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        stops = shared.tokenizer.stop_ids
        sampling = [
            SamplingParams(
                temperature=temperature,
                top_p=top_p,
                max_tokens=max_reply_length,
                stop_token_ids=list(stops),
                logprobs=0,  # of the sampled token only
                detokenize=False,
                seed=seed,
            )
            for seed in seeds
        ]
        prompts = [{"prompt_token_ids": query} for query in queries]
        self._handed_over += 1
        # a name of its own: in 0.27 the prefix cache knows an adapter by its name alone, and would serve an older one's
        name = f"{adapter}-{self._handed_over}"
        with tempfile.TemporaryDirectory() as folder:
            shared.save(adapter, Path(folder) / adapter)
            request = LoRARequest(lora_name=name, lora_int_id=self._handed_over, lora_path=str(Path(folder) / adapter))
            self._wake()
            outputs = self.llm.generate(prompts, sampling, lora_request=request, use_tqdm=False)
        self._sleep()
        return [_reply(output.outputs[0], stops) for output in outputs]

    def _wake(self) -> None:
        """Wake it, after giving back what our own passes (the last evaluation, say) have left cached on the card: the
        engine takes its memory from the driver, not from torch's allocator."""
        if self.sleeps:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.llm.wake_up()

    def _sleep(self) -> None:
        if self.sleeps:
            self.llm.sleep(level=1)


def _reply(output: Any, stops: Sequence[int]) -> Reply:
    tokens = list(output.token_ids)
    if not tokens:  # a reply is at least its stop token
        raise BackendError("ppo.rollout.engine: vLLM gave back a reply of no tokens; use engine auto, or another vLLM")
    logprobs = [place[token].logprob for place, token in zip(output.logprobs, tokens, strict=True)]
    return Reply(tokens, tokens[-1] in stops, logprobs)
