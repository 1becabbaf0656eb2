"""TRL's SFTTrainer, for one process and for several: the same optimizer steps, and one exchange a step.

No DistributedDataParallel: it would copy the frozen base from process to process, cannot take a sharded one, and
exchanges gradients layer by layer where an adapter's fit into one message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import convert_outputs_to_fp32
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Sampler
from trl import SFTTrainer

from lite_huatuo.processes import Processes
from lite_huatuo.training import checkpoint
from lite_huatuo.training.progress import Progress

MASKED = -100  # the label of a token that is not learned


class EvenSampler(Sampler[int]):
    """Examples in the order in which one process would see them, every optimizer step filled up with `filler` until it
    divides evenly among processes and microbatches.

    `size` is the number of examples of a step, `unit` what they are filled up to a multiple of; `epoch` tells which
    epoch begins.
    """

    def __init__(
        self, examples: int, *, size: int, unit: int, filler: int, seed: int, epoch: Callable[[], int]
    ) -> None:
        self.examples, self.size, self.filler, self.seed, self.epoch = examples, size, filler, seed, epoch
        self.filled = -(-size // unit) * unit

    def __len__(self) -> int:
        return -(-self.examples // self.size) * self.filled

    def __iter__(self) -> Iterator[int]:
        # the order of accelerate's SeedableRandomSampler, which one process uses
        generator = torch.Generator().manual_seed(self.seed + self.epoch())
        order = torch.randperm(self.examples, generator=generator).tolist()
        for start in range(0, self.examples, self.size):
            step = order[start : start + self.size]
            yield from step
            yield from [self.filler] * (self.filled - len(step))


class ResumableTrainer(SFTTrainer):
    """SFTTrainer that goes on from the checkpoint of another number of processes or cards."""

    def __init__(self, *, progress: Progress, **others: Any) -> None:
        super().__init__(**others)
        self.progress = progress

    def _save_rng_state(self, output_dir: str) -> None:
        """Keep this process's random states in our own form: transformers' is pickled, and for the same cards only."""
        checkpoint.save_random_states(Path(output_dir), self.args.process_index)

    def _load_rng_state(self, folder: str | None) -> None:
        """Restore the random states that a checkpoint holds for this process, or those of its first one."""
        if folder is not None:
            rank, count = self.args.process_index, self.args.world_size
            for text in checkpoint.load_random_states(Path(folder), rank, count):
                self.progress.note(f"sft: {Path(folder).name}: {text}")


class SharingTrainer(ResumableTrainer):
    """A trainer whose processes share each optimizer step; `batch_size` is the number of examples of a step."""

    def __init__(self, *, args: Any, processes: Processes, batch_size: int, pad_id: int, **others: Any) -> None:
        if args.device.type == "cpu":
            args._setup_devices = torch.device("cpu")  # accelerate's cpu:0 is nowhere that torch.load could load to
        super().__init__(args=args, **others)
        self.processes, self.batch_size = processes, batch_size
        self.accelerator.prepare_model = partial(_autocast, self.accelerator)
        rows: Any = self.train_dataset
        self.examples = len(rows)
        self.train_dataset = concatenate_datasets([rows, _filler(rows, pad_id)])

    def get_train_dataloader(self) -> Any:
        """Return the loader of this process's microbatches."""
        loader = super().get_train_dataloader()
        loader._drop_last = True  # nothing is: but else accelerate takes the last figures for those of repeated rows
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return EvenSampler(
            self.examples,
            size=self.batch_size,
            unit=self.args.per_device_train_batch_size * self.processes.count,
            filler=self.examples,
            seed=int(self.args.data_seed or 0),
            epoch=lambda: int(self.state.epoch or 0),
        )

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Do a microbatch; after the last of an optimizer step make every process's gradient that of all its tokens."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            # the loss of each process is the sum over its tokens, over the tokens of all, times the processes
            learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
            self.processes.add_gradients(learned, scale=1 / self.processes.count)
        return loss


def _autocast(accelerator: Any, model: Any, **_: Any) -> Any:
    """Do of accelerate's `prepare_model` what it does for one process: under mixed precision the network's forward runs
    in it, and what it returns is float32. No DistributedDataParallel, and no question on which card the base is."""
    if accelerator.native_amp:
        model.forward = convert_outputs_to_fp32(accelerator.autocast()(model.forward))
    return model


def _filler(dataset: Dataset, pad_id: int) -> Dataset:
    """Return a row from which nothing is learned, with the columns of a prepared data set."""
    values = {"input_ids": [pad_id, pad_id], "labels": [MASKED, MASKED], "seq_lengths": [2]}
    return Dataset.from_dict({name: [values[name]] for name in dataset.column_names}, features=dataset.features)
