"""What can be evaluated, behind one face: a run's student or base, an exported model or one on the Hub, an endpoint."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lite_huatuo import recipe as recipes
from lite_huatuo.data import completion, finish
from lite_huatuo.data import profile as profiles
from lite_huatuo.data.asking import Request, Unusable
from lite_huatuo.data.profile import Profile
from lite_huatuo.errors import APIError, BackendError, CheckpointError, ReplyError
from lite_huatuo.records import VerifiableProblem
from lite_huatuo.run_dir import STAGES, RunDir
from lite_huatuo.verifier import judge_room

if TYPE_CHECKING:
    from lite_huatuo.models.backends import LoadedBase
    from lite_huatuo.models.shared_base import SharedBase

MOST_TOKENS = 1300  # of a reply where no recipe says; the published code's
STEP = "eval"
BROKEN_TRIES = 3  # calls for one reply that the endpoint breaks off
_PROFILE = "profile:"
_SHAPING = {"reasoning_effort", "reasoning_tokens", "extra"}  # of a profile: what changes a reply, beside the model


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn; temperature 0 is greedy. `salt` changes no reply: it tells evaluations apart in a request
    store, where what one student said must not stand for what another would say."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    salt: str = ""


@dataclass(frozen=True)
class Ask:
    """One question as it is asked, for the `run`-th time."""

    id: str
    run: int
    prompt: str


@dataclass(frozen=True)
class Written:
    """A reply; `failure` says why there is none. `tokens` is None where nobody counted them."""

    reply: str
    tokens: int | None
    stopped: bool
    failure: str | None = None


Keep = Callable[[Sequence[tuple[Ask, Written]]], None]


class Writer(Protocol):
    """Writes replies. `identity` tells apart what would write others."""

    identity: dict[str, Any]
    max_tokens: int

    def write(self, asks: Sequence[Ask], sampling: Sampling, keep: Keep) -> None:
        """Write a reply to every question and hand them to `keep` as they come."""
        ...


class LocalWriter:
    """A network on this machine; `adapter` is the one that is active, shared_base.BASE for none."""

    def __init__(
        self, shared: SharedBase, adapter: str, identity: dict[str, Any], *, batch_size: int, max_tokens: int
    ) -> None:
        self.shared, self.adapter, self.identity = shared, adapter, identity
        self.batch_size, self.max_tokens = batch_size, max_tokens

    def write(self, asks: Sequence[Ask], sampling: Sampling, keep: Keep) -> None:
        """Write them all. A reply is kept when it ends, and drawn with random numbers of its own.

        A base that does not pack writes batch by batch, of like length together: replies are kept when their batch
        ends, and drawn with the batch's random numbers.
        """
        queries = {ask: self.shared.tokenizer.query(ask.prompt) for ask in asks}
        room = getattr(self.shared.causal.config.get_text_config(), "max_position_embeddings", None)
        fits = [ask for ask in asks if room is None or len(queries[ask]) + sampling.max_tokens <= room]
        keep([(ask, _too_long(len(queries[ask]), sampling, room)) for ask in asks if ask not in set(fits)])
        order = sorted(fits, key=lambda ask: (len(queries[ask]), ask.id, ask.run))
        step = max(1, len(order)) if self.shared.packs else self.batch_size
        for start in range(0, len(order), step):
            group = order[start : start + step]
            self._write(group, [queries[ask] for ask in group], sampling, keep)

    def _write(self, asks: Sequence[Ask], queries: Sequence[list[int]], sampling: Sampling, keep: Keep) -> None:
        from lite_huatuo.training.rollout import Episode, generate

        def ended(place: int, episode: Episode) -> None:
            keep([(asks[place], Written(episode.text, len(episode.reply), episode.stopped))])

        with self.shared.using(self.adapter):
            generate(
                self.shared,
                [VerifiableProblem(ask.id, ask.prompt, "") for ask in asks],
                queries,
                temperature=sampling.temperature or None,
                top_p=sampling.top_p,
                max_reply_length=sampling.max_tokens,
                batch_size=self.batch_size,
                seeds=[_seed(sampling.seed, ask) for ask in asks],
                on_episode=ended,
            )


class EndpointWriter:
    """A model behind an OpenAI-compatible address. Every reply is in a request store before it is used.

    Under one name another student may be served, at another address or at the same one: a kept reply is used again by
    the evaluation that asked for it and by no other.
    """

    def __init__(self, profile: Profile, store: Path, stack: ExitStack, *, budget: float | None = None) -> None:
        self.profile = profile
        self.identity = {"model": profile.model, "endpoint": profile.name, "address": profile.base_url}
        self.identity.update(profile.model_dump(include=_SHAPING, exclude_defaults=True))
        self.max_tokens = MOST_TOKENS
        self._room, self._teacher = judge_room.enter(store, profile, budget, None)
        stack.callback(judge_room.leave, self._room, self._teacher)

    @property
    def replayed(self) -> int:
        """How many replies came from the request store."""
        return self._teacher.usage.replayed

    def write(self, asks: Sequence[Ask], sampling: Sampling, keep: Keep) -> None:
        """Ask as many at one time as the profile allows; each reply is kept when it comes."""
        if sampling.top_p != 1.0:
            raise APIError("--top-p: endpoints are asked without it; leave it at 1, or set it in the profile's extra")
        self._room.run(self._all(asks, sampling, keep))

    async def _all(self, asks: Sequence[Ask], sampling: Sampling, keep: Keep) -> None:
        turns = asyncio.Semaphore(2 * self.profile.concurrency)

        async def one(ask: Ask) -> None:
            async with turns:
                keep([(ask, await self._one(ask, sampling))])

        tasks = [asyncio.create_task(one(ask)) for ask in asks]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, ask: Ask, sampling: Sampling) -> Written:
        """Return the reply as the store has it. One that was cut, refused or empty is a reply; faults that last are
        none, and so are replies that the endpoint broke off or ended for a reason that nobody here knows: those are
        asked for again, `BROKEN_TRIES` times in each evaluation.
        """
        first = f"{sampling.seed}/{ask.run}" if sampling.temperature else ""
        temperature = sampling.temperature if self.profile.temperature else None
        salt = f"{self.profile.base_url} {sampling.salt}"
        asked = 0
        for number in itertools.count():
            sample = first if number == 0 else f"{first} retry {number}".strip()
            request = Request(STEP, ask.prompt, sampling.max_tokens, temperature=temperature, sample=sample)
            key, failure = completion.key(completion.body(self.profile, request), sample, salt), ""
            asked += self._room.store.get(key) is None
            try:
                await self._teacher.ask(request, salt)
            except Unusable as error:
                failure = str(error)  # what it says is in the store
            except ReplyError as error:
                return Written("", None, False, failure=str(error))
            reply = self._room.store.get(key)
            assert reply is not None, "a reply is kept before it is used"
            kind = finish.reply_kind(reply.finish, self.profile.whole)
            if kind not in ("broken", "unknown"):
                return Written(reply.text, reply.usage.output or None, kind != "cut")
            if asked >= BROKEN_TRIES:
                return Written("", None, False, failure=failure)
        raise AssertionError("unreachable")


def profile_of(target: str, overrides: Sequence[str]) -> Profile | None:
    """Return the model profile of an address or a profile:NAME, with values overridden; None of any other target."""
    if target.startswith(_PROFILE):
        return profiles.load(target.removeprefix(_PROFILE), tuple(overrides))
    if target.startswith(("http://", "https://")):
        return profiles.load("local", (f"base_url={target}", *overrides))
    return None


def open_run(folder: Path, stage: str | None) -> tuple[LocalWriter, str]:
    """Return a run's student and its stage: base (no adapter), sft, ppo, or the newest that is finished."""
    from lite_huatuo.models import run_base
    from lite_huatuo.models.shared_base import SharedBase
    from lite_huatuo.planning import row_count

    run = RunDir.open(folder)
    recipe = recipes.check(run.recipe(), f"{folder}/recipe.yaml")
    named = stage or ("ppo" if run.is_done("ppo") else "sft")
    if named != "base" and not run.is_done(named):
        raise CheckpointError(f"{folder}: {named} is not finished; run `lite-huatuo train --resume` on it first")
    loaded = run_base.load(run, **recipe.base.model_dump())
    identity = {"model": recipe.base.model, "revision": loaded.revision, "quantization": recipe.base.quantization}
    limits = recipe.heldout_arguments(row_count.choose(recipe, loaded.model))
    sizes = {"batch_size": limits["batch_size"], "max_tokens": limits["max_reply_length"]}
    if named == "base":
        return _without_adapter(loaded, identity, **sizes), named
    adapter = run.sound(named)
    shared = SharedBase.from_adapters(loaded, {"actor": adapter}, ())
    identity["adapter"] = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()[:16]
    return LocalWriter(shared, "actor", identity, **sizes), named


def load_model(model: str, *, revision: str | None = None) -> LoadedBase:
    """Load a model that is no run's: an exported one in a folder, or one on the Hub; BackendError where it is none."""
    from lite_huatuo.models import backends

    if (Path("runs") / model / "recipe.yaml").is_file() and not Path(model).exists():
        raise BackendError(f"{model}: no such folder; did you mean {Path('runs') / model}?")
    if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        raise BackendError(
            f"{model}: neither a run (no recipe.yaml) nor a model (no config.json); name the folder of one"
        )
    try:
        return backends.load(model, revision=revision, quantization="none", backend="plain")
    except BackendError as error:
        raise BackendError(str(error).removeprefix("base.model: ")) from None  # it is no recipe's


def open_model(model: str, *, revision: str | None = None, batch_size: int = 16) -> LocalWriter:
    """Return an exported model in a folder, or one on the Hub, in the 16 bit (on a CPU 32) it is stored in."""
    loaded = load_model(model, revision=revision)
    identity: dict[str, Any] = {"model": model, "revision": revision}
    if Path(model).is_dir():
        files = sorted(Path(model).glob("*.safetensors"))
        identity["weights"] = hashlib.sha256("".join(map(_fingerprint, files)).encode()).hexdigest()[:16]
    return _without_adapter(loaded, identity, batch_size=batch_size, max_tokens=MOST_TOKENS)


def _without_adapter(loaded: LoadedBase, identity: dict[str, Any], **sizes: int) -> LocalWriter:
    """Return a writer of the bare network. It carries an adapter that is never active: what writes replies knows
    networks with adapters only."""
    from lite_huatuo.models.shared_base import BASE, SharedBase

    shared = SharedBase.fresh(loaded, "unused", rank=1, alpha=1, targets="all-linear")
    return LocalWriter(shared, BASE, identity, **sizes)


def stage_folder(run: Path, stage: str) -> Path:
    """Return where a run's stage keeps its evaluations."""
    assert stage in STAGES, stage
    return run / "eval" / stage


def _fingerprint(path: Path) -> str:
    """Return what tells a weights file from another without reading gigabytes: name, size, its ends."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1 << 20)
        file.seek(max(0, size - (1 << 20)))
        ends = hashlib.sha256(head + file.read()).hexdigest()
    return f"{path.name}:{size}:{ends}"


def _too_long(length: int, sampling: Sampling, room: int | None) -> Written:
    return Written(
        "", None, False, failure=f"a query of {length} tokens and a reply of {sampling.max_tokens} do not fit in {room}"
    )


def _seed(seed: int, ask: Ask) -> int:
    """Return the seed of one reply: it depends on nothing else that is asked."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{ask.run}/{ask.id}".encode()).digest()[:8], "big") >> 1
