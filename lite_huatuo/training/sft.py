"""Stage 1: fine-tune the actor adapter on (question -> complex CoT + response) with TRL's SFTTrainer.

Reads the recipe and its data; writes runs/<name>/sft/final/actor, the reference and the start of stage 2.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lite_huatuo import manifest
from lite_huatuo.models import backends, run_base
from lite_huatuo.models.shared_base import BASE, SharedBase, describe
from lite_huatuo.planning import row_count
from lite_huatuo.processes import ALONE, Processes
from lite_huatuo.recipe import Recipe
from lite_huatuo.run_dir import RunDir
from lite_huatuo.stopping import Interrupted, Stop
from lite_huatuo.training import checkpoint, finite, heldout, inputs, metrics, phases, sft_data
from lite_huatuo.training.progress import Progress, Quiet
from lite_huatuo.verifier import choose

# What the trainer calls its figures, and what we call them.
FIGURES = {
    "loss": "sft/loss",
    "eval_loss": "sft/eval_loss",
    "mean_token_accuracy": "sft/token_accuracy",
    "entropy": "sft/entropy",
    "grad_norm": "sft/gradient_norm",
    "learning_rate": "sft/learning_rate",
    "epoch": "sft/epoch",
    "skipped_steps": "sft/skipped_steps",
}

TILE_TOKENS = 128  # whose logits there are at once on a CPU


def train(
    recipe: Recipe,
    run: RunDir,
    progress: Progress | None = None,
    *,
    processes: Processes = ALONE,
    stop: Stop | None = None,
) -> None:
    """Run stage 1 in a run folder, from its newest checkpoint if there is one. A finished stage is left alone.

    Before it, the bare base answers the held-out problems; after it, the trained adapter does. A signal that `stop` was
    told of leaves a checkpoint.
    """
    progress = progress or Quiet()
    if processes.once(lambda: run.is_done("sft")):
        progress.note("stage 1 (SFT) is done already")
        return
    _train(recipe, run, progress, processes, stop or Stop())
    backends.release()


def _train(recipe: Recipe, run: RunDir, progress: Progress, processes: Processes, stop: Stop) -> None:
    """Do the stage. What it holds, the base above all, ends with this function."""
    from transformers import set_seed

    data = inputs.read(**recipe.input_arguments())
    run.remember("sft/data.json", inputs.facts(data, "sft", "heldout"))
    judge = recipe.verifier.model_dump()
    loaded = run_base.load(run, first=True, **recipe.base.model_dump(), **recipe.placement(processes))
    rows = sft_data.tokenise(
        data.sft,
        loaded.tokenizer,
        max_length=recipe.base.max_length,
        max_query_length=recipe.data.max_query_length,
        too_long=recipe.data.too_long,
        eval_share=recipe.data.sft_eval_share,
        seed=recipe.data.seed,
    )
    set_seed(recipe.sft.seed)
    shared = SharedBase.fresh(loaded, "actor", frozen=choose.adapters(judge), **recipe.adapter.model_dump())
    processes.equalise(shared.parameters("actor").values())
    verifier = choose.make(judge, shared=shared, processes=processes)
    at_once = row_count.of_stage(recipe, run, "sft", shared, processes)
    note = (
        f"stage 1 (SFT): {len(rows.train)} examples, {len(rows.evaluation)} for the evaluation loss, {rows.cut} cut, "
        f"{rows.dropped} dropped as too long, {data.removed} removed as held out, "
        f"{recipe.heldout_arguments(at_once)['batch_size']} replies written at once"
    )
    progress.note(note)
    run.event(
        "sft started",
        examples=len(rows.train),
        cut=rows.cut,
        dropped=rows.dropped,
        removed=data.removed,
        **describe(shared),
    )
    limits = recipe.heldout_arguments(at_once)
    where = run.path / "eval"
    heldout.report(shared, BASE, "base", data.heldout, verifier, where, progress, processes, **limits)
    _fit(recipe, run, shared, rows, progress, processes, stop)
    heldout.report(shared, "actor", "sft", data.heldout, verifier, where, progress, processes, **limits)
    processes.once(partial(_finish, run, shared))
    run.event("sft finished")


def _finish(run: RunDir, shared: SharedBase) -> None:
    """Write final/actor, whole or not at all."""
    temporary = run.stage("sft") / ".tmp-final"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    shared.save("actor", temporary / "actor")
    checkpoint.put(temporary, run.stage("sft") / "final")


def _fit(
    recipe: Recipe,
    run: RunDir,
    shared: SharedBase,
    rows: sft_data.SFTRows,
    progress: Progress,
    processes: Processes,
    stop: Stop,
) -> None:
    """Train the actor adapter in place, resuming from the newest whole checkpoint."""
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback

    newest = checkpoint.newest(run, "sft", "checkpoint-*", progress, processes, in_place=True)
    last = 0 if newest is None else checkpoint.number(newest)
    run.rewind("sft", "step", last)
    arguments = trainer_arguments(
        recipe, run, evaluate=bool(rows.evaluation), packs=shared.packs, processes=processes.count
    )
    forward = shared.causal.__dict__.get("forward")
    trainer = _trainer(recipe, shared, processes)(
        model=shared.peft,
        args=arguments,
        progress=progress,
        train_dataset=Dataset.from_list(rows.train),
        eval_dataset=Dataset.from_list(rows.evaluation) if rows.evaluation else None,
        processing_class=shared.tokenizer.hf,
        callbacks=[
            finite.gradient_guard(shared.parameters("actor").values()),
            _recorder(recipe, run, shared, progress, last, processes, stop),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    for parameter in shared.parameters("actor").values():
        # SFTTrainer turns the adapters of a 4-bit base into bfloat16: too coarse for Adam, and slow on CPU.
        parameter.data = parameter.data.to(torch.float32)
    with stop.held(), shared.using("actor", learn=True), _small_tiles(shared.device.type):
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    if number := processes.most(stop.signal):
        raise Interrupted(number)
    # SFTTrainer replaces the network's forward by one that generates without a cache, and leaves it there.
    if forward is None:
        shared.causal.__dict__.pop("forward", None)
    else:
        shared.causal.forward = forward
    shared.causal.config.use_cache = True


@contextlib.contextmanager
def _small_tiles(device: str) -> Iterator[None]:
    """Let TRL's fused head (1.15 and later) take few tokens at once where it has no Triton.

    Without it, backward makes eight float32 copies of a tile, which is of 4096 tokens: gigabytes. Before 1.15 TRL took
    256 tokens at once on every device.
    """
    try:
        from trl.kernels import chunked_logprob
    except ImportError:
        device = "older"
    if device != "cpu":
        yield
        return
    before = chunked_logprob.TOKEN_CHUNK_SIZE
    chunked_logprob.TOKEN_CHUNK_SIZE = TILE_TOKENS
    try:
        yield
    finally:
        chunked_logprob.TOKEN_CHUNK_SIZE = before


def _trainer(recipe: Recipe, shared: SharedBase, processes: Processes) -> Callable[..., Any]:
    """Return TRL's trainer, for several processes the one that shares its steps."""
    from lite_huatuo.training.sft_trainer import ResumableTrainer, SharingTrainer

    if processes.count == 1:
        return ResumableTrainer
    return partial(
        SharingTrainer, processes=processes, batch_size=recipe.sft.batch_size, pad_id=shared.tokenizer.pad_id
    )


def trainer_arguments(recipe: Recipe, run: RunDir, *, evaluate: bool, packs: bool, processes: int = 1) -> Any:
    """Return TRL's SFTConfig for a recipe; `packs`: the base's attention keeps examples apart that stand end to end."""
    import torch
    from trl import SFTConfig

    sft, cuda = recipe.sft, torch.cuda.is_available()
    dtype = backends.torch_dtype(recipe.base.compute_dtype)
    packing = sft.packing == "on"
    flash = recipe.base.attention.startswith("flash") and importlib.util.find_spec("flash_attn") is not None
    arguments = SFTConfig(
        output_dir=str(run.stage("sft") / "checkpoints"),
        num_train_epochs=sft.epochs,
        per_device_train_batch_size=sft.microbatch_size,
        per_device_eval_batch_size=sft.microbatch_size,
        gradient_accumulation_steps=math.ceil(sft.batch_size / (sft.microbatch_size * processes)),
        learning_rate=sft.learning_rate,
        lr_scheduler_type=sft.schedule,
        warmup_steps=sft.warmup_ratio,
        weight_decay=sft.weight_decay,
        max_grad_norm=sft.max_grad_norm,
        optim={"adamw": "adamw_torch", "paged_adamw_8bit": "paged_adamw_8bit"}[sft.optimizer],
        max_length=recipe.base.max_length if packing else None,  # sft_data has cut or dropped what is longer
        packing=packing,
        padding_free=sft.packing == "auto" and (packs or flash),
        completion_only_loss=True,  # None would take token rows for plain text, and teach the queries as well
        gradient_checkpointing=sft.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": backends.REENTRANT[backends.choose(recipe.base.backend)]},
        use_cpu=not cuda,
        bf16=dtype == torch.bfloat16,  # mixed precision: the adapter's weights stay float32
        fp16=cuda and dtype == torch.float16,
        logging_steps=sft.log_every,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=sft.eval_every,
        save_strategy="steps",
        save_steps=sft.save_every,
        save_total_limit=sft.keep_checkpoints + 1,  # a torn newest one must not be all there is
        seed=sft.seed,
        data_seed=sft.seed,
        report_to=list(recipe.report_to) or "none",
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    # One process uses one card, however many it sees: transformers would multiply batches and losses by their number.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _recorder(
    recipe: Recipe,
    run: RunDir,
    shared: SharedBase,
    progress: Progress,
    last: int,
    processes: Processes,
    stop: Stop,
) -> Any:
    """Return the trainer callback that writes metrics, marks checkpoints whole, and keeps early adapters."""
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):
        """Translates the trainer's events into the run folder's files."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            phases.reset_peak()
            progress.start("train sft", state.max_steps)
            progress.advance(last)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress.advance(1)
            if run.writes and state.global_step in recipe.sft.early_checkpoints:
                folder = run.stage("sft") / "early" / f"step-{state.global_step:06d}" / "actor"
                shutil.rmtree(folder.parent, ignore_errors=True)
                folder.parent.mkdir(parents=True)
                shared.save("actor", folder)
                manifest.seal(folder.parent)
            if state.global_step % recipe.sft.log_every == 0 and processes.most(stop.signal):
                control.should_save = control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            figures = {ours: logs[theirs] for theirs, ours in FIGURES.items() if logs and theirs in logs}
            if "sft/loss" in figures:
                figures["sft/recomputed_layers"] = shared.recomputed_layers
                if (peak := phases.peak_mib()) is not None:
                    figures["memory/sft_mib"] = peak
            if "sft/loss" in figures or "sft/eval_loss" in figures:
                run.log("sft", metrics.check({"step": state.global_step, **figures}))
                progress.advance(
                    0, **{name: figures[name] for name in ("sft/loss", "sft/eval_loss") if name in figures}
                )

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            processes.wait()  # each writes its random state
            if run.writes:
                folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                checkpoint.mark(folder, run.id, state.global_step)
                manifest.seal(folder)

    return Recorder()
