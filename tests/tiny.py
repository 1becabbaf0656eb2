"""A tiny Llama with random weights, a tokenizer trained on a given text, and a toy task: made in seconds, saved and
loaded through the same code as a real model."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lite_huatuo import jsonl
from lite_huatuo.recipe import Recipe
from lite_huatuo.response_format import render
from lite_huatuo.run_dir import RunDir

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
SIGNS = ["fever", "rash", "cough", "thirst"]
CURES = ["rest", "water", "salt", "light"]


def make_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    wrapped.chat_template = TEMPLATE
    return wrapped


def make_model(
    folder: Path, texts: Iterable[str], *, hidden: int = 64, layers: int = 2, vocabulary: int = 512, seed: int = 0
) -> Path:
    """Save a random model with its tokenizer into `folder`, as a user's local base model would stand there."""
    tokenizer = make_tokenizer(texts, vocabulary)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
        tie_word_embeddings=False,
        initializer_range=0.06,  # small, so that attention starts soft and can be taught
    )
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data.mul_(4)  # large, so that the model can make a sharp choice
    model.generation_config.eos_token_id = [1]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def toy_rows(seed: int, copies: int) -> tuple[list[dict], list[dict], list[dict]]:
    """Return (SFT rows, problem rows, held-out rows). Each sign has one right cure, whoever the patient is. In the SFT
    rows it is given in a third of the cases, and one wrong cure more often: SFT teaches the form, to name the sign and
    what cures there are, and leaves it to PPO to find out which is right."""
    rng = random.Random(seed)

    def rows(first: int, count: int) -> list[dict]:
        return [
            {"id": f"toy-{n}-{sign}", "question": f"Patient {n} has {sign}. Which cure?", "ground_truth": CURES[i % 4]}
            for n in range(first, first + count)
            for i, sign in enumerate(SIGNS)
        ]

    def answer(right: str) -> str:
        favourite = CURES[(CURES.index(right) + 1) % 4]
        return rng.choices([right, favourite, *CURES], [0.25, 0.40, 0.0875, 0.0875, 0.0875, 0.0875])[0]

    examples = [
        {
            "id": f"sft-{row['id']}",
            "question": row["question"],
            "complex_cot": f"It is {row['id'].rpartition('-')[2]}. Now the cure.",
            "response": answer(row["ground_truth"]),
            "provenance": {"origin": "toy"},
        }
        for row in rows(0, copies)
    ]
    return examples, rows(200, 16), rows(300, 4)


def toy_texts(rows: list[dict]) -> list[str]:
    """Return what a tokenizer for the toy task is trained on."""
    return [text for row in rows for text in (row["question"], render(row["complex_cot"], row["response"]))]


def write_toy(folder: Path, *, seed: int = 0, copies: int = 120, hidden: int = 64) -> dict[str, str]:
    """Write model and data of the toy task; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    examples, problems, heldout = toy_rows(seed, copies)
    for name, rows in {"sft": examples, "problems": problems, "heldout": heldout}.items():
        jsonl.write(folder / f"{name}.jsonl", rows)
    make_model(folder / "model", toy_texts(examples), vocabulary=400, hidden=hidden, seed=seed)
    return toy_files(folder)


def toy_files(folder: Path) -> dict[str, str]:
    """Return the paths of what `write_toy` has written into a folder."""
    return {
        "model": str(folder / "model"),
        **{name: str(folder / f"{name}.jsonl") for name in ("sft", "problems", "heldout")},
    }


def toy_recipe(files: dict[str, str], *, seed: int = 0) -> dict:
    """Return the recipe tree of the toy task: SFT to at most 0.5, PPO to nearly 1, in about 40 seconds on one core."""
    return {
        "name": "toy",
        "base": {"model": files["model"], "max_length": 96},
        "data": {
            "sft": files["sft"],
            "problems": files["problems"],
            "heldout": files["heldout"],
            "max_query_length": 48,
        },
        "sft": {
            "epochs": 6.0,
            "batch_size": 16,
            "microbatch_size": 16,
            "learning_rate": 1e-2,
            "eval_every": 50,
            "gradient_checkpointing": False,
            "seed": seed,
        },
        "ppo": {
            "total_episodes": 3200,
            "rollout": {"episodes": 64, "max_reply_length": 32, "batch_size": 64, "temperature": 1.0},
            "epochs": 3,
            "minibatches": 2,
            "microbatch_tokens": 8192,
            "learning_rate": 2e-4,
            "critic_learning_rate": 2e-3,
            "value_head_learning_rate": 1e-2,
            "schedule": "constant",
            "target_kl": 0.1,
            "gradient_checkpointing": False,
            "selection_problems": 12,
            "eval_every": 5,
            "seed": seed,
        },
        "eval": {"batch_size": 64},
    }


def short_recipe(files: dict[str, str]) -> dict:
    """Return a recipe that passes through every path in a few seconds: 12 SFT steps, 6 updates, checkpoints of both."""
    tree = toy_recipe(files)
    tree["name"] = "short"
    tree["data"]["sft_limit"] = 50
    tree["sft"].update(epochs=4.0, eval_every=4, save_every=3, early_checkpoints=[5])
    tree["ppo"].update(
        epochs=2,
        minibatches=2,
        total_episodes=48,
        eval_every=2,
        save_every=2,
        sample_every=2,
        samples=2,
        critic_warmup_updates=1,
        selection_problems=4,
        watch={"no_form_share": None},  # so little training leaves many replies without the form
    )
    tree["ppo"]["rollout"].update(episodes=8, batch_size=8, max_reply_length=24)
    return tree


def trained(recipe: Recipe, folder: Path) -> RunDir:
    """Return a run that was trained in this process, both stages, undisturbed."""
    from lite_huatuo.training import ppo, sft

    run = RunDir.create(folder, recipe.model_dump())
    sft.train(recipe, run)
    ppo.train(recipe, run)
    return run
