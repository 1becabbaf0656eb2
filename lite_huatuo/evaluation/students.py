"""Who answers in `chat`: the stages of a run on one loaded base, a model, or an endpoint. Replies come as they grow."""

from __future__ import annotations

import concurrent.futures
import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lite_huatuo import recipe as recipes
from lite_huatuo.errors import CheckpointError, RecipeError, ReplyError
from lite_huatuo.evaluation import predictions, targets
from lite_huatuo.evaluation.targets import Ask, EndpointWriter, Sampling, Written
from lite_huatuo.run_dir import RunDir

_LOOK = 0.1  # seconds between looks at `stop` while an endpoint writes


@dataclass(frozen=True)
class Said:
    """A reply as far as it has come. `end` is None while it is written, then ended, cut (at the limit) or stopped."""

    text: str
    end: str | None = None


class Students(Protocol):
    """Those who answer, by name; `most_tokens` is what a reply may have unless somebody says otherwise."""

    names: tuple[str, ...]
    most_tokens: int

    def answer(
        self, name: str, question: str, *, temperature: float, max_tokens: int, stop: threading.Event
    ) -> Iterator[Said]:
        """Yield a reply as it grows; the last one has an `end`. Temperature 0 is greedy; `stop` ends it early.

        LiteHuatuoError where there can be none.
        """
        ...


class Local:
    """One network on this machine; `using` makes a student active. They answer one at a time."""

    def __init__(
        self, model: Any, tokenizer: Any, using: Mapping[str, Callable[[], AbstractContextManager[Any]]], most: int
    ) -> None:
        self._model, self._tokenizer, self._using = model, tokenizer, using
        self.names, self.most_tokens = tuple(using), most
        self._turn = threading.Lock()

    def answer(
        self, name: str, question: str, *, temperature: float, max_tokens: int, stop: threading.Event
    ) -> Iterator[Said]:
        """See `Students`. Whoever closes the iterator ends the reply."""
        from transformers import TextIteratorStreamer

        query = self._tokenizer.query(question)
        limit = min(max_tokens, self._room() - len(query))
        if limit < 1:
            raise ReplyError(f"the question has {len(query)} tokens, the model takes {self._room()} with its reply")
        gone = threading.Event()  # nobody reads the reply any more
        with self._turn, self._using[name](), concurrent.futures.ThreadPoolExecutor(1) as pool:
            pieces = TextIteratorStreamer(self._tokenizer.hf, skip_prompt=True, skip_special_tokens=True)
            end = pool.submit(self._write, query, pieces, temperature, limit, lambda: stop.is_set() or gone.is_set())
            text = ""
            try:
                for piece in pieces:
                    text += piece
                    yield Said(text)
                yield Said(text, end.result())
            finally:
                gone.set()

    def _room(self) -> int:
        """Return the tokens that a query and its reply may have together."""
        return getattr(self._model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30

    def _write(self, query: list[int], pieces: Any, temperature: float, limit: int, halt: Callable[[], bool]) -> str:
        """Write a reply into `pieces` and return its end. On another thread than its reader."""
        import torch
        from transformers import GenerationConfig

        from lite_huatuo.models import packing

        sampling: dict[str, Any] = (
            {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        )
        stops = self._tokenizer.stop_ids
        config = GenerationConfig(
            max_new_tokens=limit, eos_token_id=stops, pad_token_id=self._tokenizer.pad_id, **sampling
        )
        ids = torch.tensor([query], device=self._model.device)
        try:
            with torch.no_grad(), packing.without_cudnn():
                written = self._model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=config,
                    streamer=pieces,
                    stopping_criteria=[lambda tokens, scores: torch.full((len(tokens),), halt(), device=tokens.device)],
                )
        except BaseException:
            pieces.end()  # or its reader would wait for ever
            raise
        if int(written[0, -1]) in stops:
            return "ended"
        return "stopped" if halt() else "cut"


class Endpoint:
    """A model behind an address. Replies come whole; one that is stopped is still written, and read by nobody."""

    def __init__(self, writer: EndpointWriter) -> None:
        self._writer = writer
        self.names: tuple[str, ...] = (writer.profile.model,)
        self.most_tokens = writer.max_tokens
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._asked = 0

    def answer(
        self, name: str, question: str, *, temperature: float, max_tokens: int, stop: threading.Event
    ) -> Iterator[Said]:
        """See `Students`."""
        self._asked += 1
        ask = Ask("chat", self._asked, question)
        future = self._pool.submit(self._write, ask, Sampling(temperature, 1.0, max_tokens, 0))
        while not concurrent.futures.wait([future], _LOOK).done:
            if stop.is_set():
                yield Said("", "stopped")
                return
        reply = future.result()
        if reply.failure is not None:
            raise ReplyError(reply.failure)
        yield Said(reply.reply, "ended" if reply.stopped else "cut")

    def _write(self, ask: Ask, sampling: Sampling) -> Written:
        found: list[Written] = []
        self._writer.write([ask], sampling, lambda written: found.extend(reply for _, reply in written))
        return found[0]

    def close(self) -> None:
        """Wait for the reply that is being written."""
        self._pool.shutdown()


@contextlib.contextmanager
def enter(
    target: str, *, stage: str | None = None, every: bool = False, overrides: Sequence[str] = ()
) -> Iterator[Students]:
    """Give those who answer for a run, a stage of it, a model or an endpoint.

    Of a run that is the newest stage, or `stage`; with `every` the base and all that are finished. `overrides` are an
    endpoint's profile values.
    """
    with ExitStack() as stack:
        profile = targets.profile_of(target, overrides)
        if profile is not None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            endpoint = Endpoint(EndpointWriter(profile, Path(folder) / "requests.sqlite", stack))
            stack.callback(endpoint.close)
            yield endpoint
            return
        if overrides:
            raise RecipeError(f"--set: is for endpoints, which {target} is not; leave it out")
        found = predictions.run_of(target)
        yield _of_model(target) if found is None else _of_run(found[0], stage or found[1], every)


def _of_run(folder: Path, stage: str | None, every: bool) -> Local:
    """Return a run's students on one base."""
    from lite_huatuo.models import run_base
    from lite_huatuo.models.shared_base import BASE, SharedBase

    run = RunDir.open(folder)
    recipe = recipes.check(run.recipe(), f"{folder}/recipe.yaml")
    finished = [name for name in ("sft", "ppo") if run.is_done(name)]
    if stage is None and not finished:
        raise CheckpointError(f"{folder}: no stage is finished yet; run `lite-huatuo train --resume` on it first")
    chosen = [stage] if stage else [BASE, *finished] if every else finished[-1:]
    if stage not in (None, BASE, *finished):
        raise CheckpointError(f"{folder}: {stage} is not finished; run `lite-huatuo train --resume` on it first")
    loaded = run_base.load(run, **recipe.base.model_dump())
    limit = recipe.ppo.rollout.max_reply_length
    adapters = {name: run.sound(name) for name in chosen if name != BASE}
    if not adapters:
        return Local(loaded.model, loaded.tokenizer, {BASE: contextlib.nullcontext}, limit)
    shared = SharedBase.from_adapters(loaded, adapters, ())
    return Local(shared.causal, shared.tokenizer, {name: partial(shared.using, name) for name in chosen}, limit)


def _of_model(model: str) -> Local:
    """Return an exported model in a folder, or one on the Hub."""
    loaded = targets.load_model(model)
    name = Path(model).name or model
    return Local(loaded.model, loaded.tokenizer, {name: contextlib.nullcontext}, targets.MOST_TOKENS)
