"""TRL 1.12.0's PPOTrainer as a contender of benchmarks/ppo_update.py, which makes a virtual environment for it.

Its training loop is one function, so it runs whole and is held at the place where it takes the next batch. The reward
model costs nothing here: its scores are made up. Replies get their drawn lengths by a logits processor.

Settings tried, one thread, processor seconds: microbatches of 16, 4 and 2 episodes where there is one minibatch;
generation and scoring in groups of 16 and 8. 4 and 2 learn alike, 16 takes a quarter more and three times the memory;
groups of 8 and 16 take alike. So the defaults are 2 and 8, which need the least memory of the fastest. With more
minibatches accumulation has to be 1, for the trainer steps its optimizer by accumulation and not by minibatch.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from typing import Any

import protocol
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


class Held:
    """The trainer's hooks: the batch comes when the driver says so, and the phases are timed."""

    def __init__(self, contender: protocol.Contender, batches: Any, pad: int, stop: int) -> None:
        self.contender, self.batches, self.pad, self.stop = contender, batches, pad, stop
        self.clock: protocol.Clock | None = None
        self.replies: list[int] = []
        self.queries = [tuple(query) for query in contender.work["queries"]]

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            if self.clock is not None:
                self.contender.report(self.clock, self.replies)
            if not self.contender.wait():
                raise SystemExit(0)
            self.clock = protocol.Clock("rollout")
            yield batch

    def generating(self, generate: Any) -> Any:
        def timed(model: Any, queries: Tensor, group: int, pad: int, config: Any) -> Any:
            outputs, logits = generate(model, queries, group, pad, config)
            self._count(queries, outputs)
            assert self.clock is not None
            self.clock.start("scoring")
            return outputs, logits

        return timed

    def replying(self, generate: Any) -> Any:
        def forced(**arguments: Any) -> Any:
            lengths = dict(zip(self.queries, self.contender.lengths(), strict=True))
            processor = protocol.Forced(lengths, stop=self.stop, pad=self.pad)
            return generate(**arguments, logits_processor=[processor])

        return forced

    def learning(self, accumulate: Any) -> Any:
        @contextlib.contextmanager
        def timed(model: Any) -> Iterator[None]:
            assert self.clock is not None
            self.clock.start("learning")
            with accumulate(model):
                yield

        return timed

    def _count(self, queries: Tensor, outputs: Tensor) -> None:
        replies = outputs[:, queries.shape[1] :]
        first = (replies == self.stop).int().argmax(dim=1) + 1
        seen = {
            tuple(token for token in row if token != self.pad): length
            for row, length in zip(queries.tolist(), first.tolist(), strict=True)
        }
        self.replies = [seen[query] for query in self.queries]


def load(folder: str, quantization: str, kind: Any, **arguments: Any) -> Any:
    """Load a network; in 4 bit all but its head."""
    config = None
    if quantization == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
            llm_int8_skip_modules=["lm_head", "score"],
        )
    model = kind.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", quantization_config=config, **arguments
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # else the first forward repacks the weights and gradients end
    return model


def critic(contender: protocol.Contender, lora: LoraConfig | None, pad: int) -> Any:
    """Return the value model; with LoRA, its adapter lies in the layers and the head is trained beside it."""
    model = load(
        contender.model,
        contender.arguments.quantization,
        AutoModelForSequenceClassification,
        num_labels=1,
        pad_token_id=pad,
    )
    if lora is not None:
        model.add_adapter(lora)  # and no PeftModel around it, in which the trainer would run the head twice
        model.score.requires_grad_(True)
    return model


def settings(contender: protocol.Contender, folder: str) -> PPOConfig:
    """Return the trainer's settings, the fastest of those tried; no logging, saving, sampling or checkpointing."""
    arguments, work = contender.arguments, contender.work
    episodes = len(work["queries"])
    microbatch = arguments.microbatch if arguments.minibatches == 1 else episodes
    return PPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,  # the default; many times slower than float32 on CPUs
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        num_sample_generations=0,
        seed=work["seed"],
        total_episodes=episodes * 100_000,
        per_device_train_batch_size=microbatch,
        gradient_accumulation_steps=episodes // microbatch,
        num_mini_batches=arguments.minibatches,
        num_ppo_epochs=work["epochs"],
        local_rollout_forward_batch_size=arguments.group,
        response_length=work["max_reply"],
        stop_token="eos",
        temperature=work["temperature"],
        learning_rate=work["learning_rate"],
        kl_coef=work["kl_coef"],
        cliprange=work["clip_range"],
        cliprange_value=work["clip_range"],
        vf_coef=1.0,
        gamma=1.0,
        lam=work["gae_lambda"],
    )


def build(contender: protocol.Contender, folder: str) -> PPOTrainer:
    """Load everything and put the hooks in."""
    arguments, work = contender.arguments, contender.work
    tokenizer = AutoTokenizer.from_pretrained(contender.model, padding_side="left")
    lora = None
    if arguments.peft == "lora":
        lora = LoraConfig(r=work["rank"], lora_alpha=work["alpha"], target_modules=protocol.LINEAR, lora_dropout=0.0)
    policy = load(contender.model, arguments.quantization, AutoModelForCausalLM)
    if lora is not None:
        policy.requires_grad_(False)
    reward = torch.nn.Identity()
    trainer = PPOTrainer(
        args=settings(contender, folder),
        processing_class=tokenizer,
        model=policy,
        ref_model=None,  # full: the trainer's own copy; LoRA: the policy without its adapter
        reward_model=reward,
        train_dataset=Dataset.from_dict({"input_ids": work["queries"]}),
        value_model=critic(contender, lora, tokenizer.pad_token_id),
        peft_config=lora,
    )
    held = Held(contender, trainer.dataloader, tokenizer.pad_token_id, tokenizer.eos_token_id)
    trainer.dataloader = held
    trainer.policy_model.generate = held.replying(trainer.policy_model.generate)
    trainer.accelerator.accumulate = held.learning(trainer.accelerator.accumulate)
    ppo_trainer.batch_generation = held.generating(ppo_trainer.batch_generation)
    ppo_trainer.get_reward = free_reward(ppo_trainer.get_reward, reward)
    return trainer


def free_reward(get_reward: Any, reward: Any) -> Any:
    """Return TRL's `get_reward` with made-up scores for the reward model and its own work for the value model."""

    def scored(model: Any, outputs: Tensor, pad: int, context: int) -> Any:
        if model is reward:
            return None, (outputs != pad).sum(dim=1).remainder(2).float(), None
        return get_reward(model, outputs, pad, context)

    return scored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peft", choices=["none", "lora"], default="lora")
    parser.add_argument("--group", type=int, default=8, help="episodes generated and scored at one time")
    parser.add_argument("--microbatch", type=int, default=2, help="episodes in one backward pass, with one minibatch")
    contender = protocol.Contender(parser)
    torch.set_num_threads(contender.work["threads"])
    contender.begin()
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(contender, folder)
        contender.ready(
            group=contender.arguments.group,
            microbatch=min(trainer.args.per_device_train_batch_size, trainer.args.mini_batch_size),
        )
        trainer.train()


if __name__ == "__main__":
    main()
