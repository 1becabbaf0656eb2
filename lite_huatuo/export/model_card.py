"""The card of an exported model: what it is, from what, how good, under which licence, and how to run it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from lite_huatuo.export import licences
from lite_huatuo.export.card_facts import Facts
from lite_huatuo.response_format import RESPONSE_HEADING, THINKING_HEADING
from lite_huatuo.run_dir import STAGES

Log = dict[str, Any]
PICTURE = "curves.svg"
LOCAL = (".", "/", "~")  # how a path begins
MODEL, BASE = "MODEL", "BASE"  # stand for the repository, or the folder, and for the base, where the card knows none
PEFT = "AutoPeftModelForCausalLM"
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank takes


def render(
    facts: Facts, figures: Log, *, base: str, on_hub: bool, counts: Log, repo: str | None, gguf: str | None
) -> str:
    """Return README.md with its metadata.

    `base` is the base's name for others, its Hub id where it is `on_hub`; `figures` are those of the export, `counts`
    {what: how many} of the training data, `gguf` is the name of a GGUF file in the folder.
    """
    facts, base = replace(facts, recipe=without_paths(facts.recipe)), without_paths(base)
    licence = licences.of(base, facts.recipe["export"].get("license"))
    parts = [
        _head(facts, base, licence),
        _form(),
        _use(figures, base if on_hub else None, repo or MODEL, gguf, facts.recipe["adapter"]["rank"]),
        _evaluation(facts),
        _training(facts, counts),
        _proof(figures),
        _limits(),
        _licence(base, licence, figures.get("licence_files", [])),
        _recipe(facts),
    ]
    head = metadata(facts, figures, base=base, on_hub=on_hub, repo=repo)
    return f"---\n{head}\n---\n\n" + "\n\n".join(filter(None, parts)) + "\n"


def without_paths(value: Any) -> Any:
    """Return a value with every path of this machine cut to its last name: a card is for others."""
    if isinstance(value, dict):
        return {key: without_paths(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_paths(each) for each in value]
    if isinstance(value, str) and value.startswith(LOCAL) and "/" in value:
        return value.rstrip("/").rpartition("/")[2]
    return value


def metadata(facts: Facts, figures: Log, *, base: str, on_hub: bool, repo: str | None) -> str:
    """Return the card's YAML as the Hub reads it."""
    licence = licences.of(base, facts.recipe["export"].get("license"))
    adapter = figures["onto"] == "adapter"
    results = _results(facts)
    data = ModelCardData(
        language=facts.languages,
        license=licence.id if licence else None,
        license_name=licence.name if licence else None,
        license_link=licence.link if licence else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        base_model=base if on_hub else None,
        base_model_relation=("adapter" if adapter else "finetune") if on_hub else None,
        tags=[
            "lite-huatuo",
            "medical",
            "reasoning",
            *(["lora"] if adapter else []),
            *(["ppo"] if facts.stage == "ppo" else []),
        ],
        model_name=(repo or facts.recipe["name"]).rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    return data.to_yaml().strip()


def _results(facts: Facts) -> list[EvalResult]:
    results = []
    summary = facts.heldout.get(facts.stage)
    if summary and summary["problems"] > summary["failed"]:
        name, judged = _heldout_name(facts), summary["problems"] - summary["failed"]
        for kind, metric, value in (
            ("accuracy", f"verified right (n={judged})", summary["right"] / judged),
            (
                "form",
                f"thinking and final response in form (n={summary['problems']})",
                summary["well_formed"] / summary["problems"],
            ),
        ):
            results.append(_result("heldout", name, kind, metric, value))
    for key, found in facts.benchmarks.items():
        if found.get("accuracy") is not None:
            metric = f"accuracy, rule {found['rule']} (n={found['questions']})"
            results.append(_result(key, found["title"], "accuracy", metric, found["accuracy"]))
    return results


def _result(kind: str, name: str, metric: str, metric_name: str, value: float) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        dataset_type=kind,
        dataset_name=name,
        metric_type=metric,
        metric_name=metric_name,
        metric_value=round(value, 4),
    )


def _heldout_name(facts: Facts) -> str:
    data = facts.recipe["data"]
    return f"held-out problems of {data['heldout'] or data['problems']}"


def _head(facts: Facts, base: str, licence: licences.Licence | None) -> str:
    what = "SFT and PPO with a verifier's reward" if facts.stage == "ppo" else "SFT on verified chains of thought"
    said = f"\n\n**{licence.said}**" if licence and licence.said else ""
    return (
        f"# {facts.recipe['name']}\n\nA medical language model that thinks before it answers: "
        f"{base}, trained by {what} (the HuatuoGPT-o1 method, arXiv 2412.18925) with lite-huatuo.\n\n"
        f"**A research model. Not for clinical use.**{said}"
    )


def _form() -> str:
    form = f"{THINKING_HEADING}\n\n<chain of thought>\n\n{RESPONSE_HEADING}\n\n<answer>"
    return (
        f"## Form of a reply\n\n```\n{form}\n```\n\n"
        "It was trained on single questions, without a system prompt. Show people the final response; keep the "
        "thinking for those who want to check it."
    )


def _use(figures: Log, base: str | None, repo: str, gguf: str | None, rank: int) -> str:
    adapter = figures["onto"] == "adapter"
    if not adapter:
        imports, model = "from transformers import AutoModelForCausalLM, AutoTokenizer", "AutoModelForCausalLM"
    elif base:
        imports, model = "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer", PEFT
    else:
        imports = "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer"
        model = "PeftModel"
    first = "" if base or not adapter else f'AutoModelForCausalLM.from_pretrained("{BASE}"), '
    python = (
        f'{imports}\n\nmodel = {model}.from_pretrained({first}"{repo}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{repo}")\n'
        'messages = [{"role": "user", "content": "Which vitamin is missing in scurvy?"}]\n'
        "inputs = tokenizer.apply_chat_template(\n"
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n)\n'
        "reply = model.generate(**inputs, max_new_tokens=1300)\n"
        'print(tokenizer.decode(reply[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))'
    )
    parts = ["## Use"]
    if adapter and not base:
        parts.append(f"Its base has no id on the Hub: put the folder of the same weights where {BASE} stands.")
    parts += [f"```python\n{python}\n```", _serve(figures, base or BASE, repo, rank)]
    if gguf:
        parts.append(f"```sh\nollama create student -f Modelfile   # beside {gguf}\nollama run student\n```")
    return "\n\n".join(parts)


def _serve(figures: Log, base: str, repo: str, rank: int) -> str:
    """Return how servers load it."""
    if figures["onto"] != "adapter":
        return f"```sh\nvllm serve {repo}\npython -m sglang.launch_server --model-path {repo}\n```"
    if figures.get("vllm"):
        return f"vLLM does not serve this adapter beside its base ({'; '.join(figures['vllm'])}); export it merged."
    room = next((most for most in VLLM_RANKS if rank <= most), VLLM_RANKS[-1])
    return f"```sh\nvllm serve {base} --enable-lora --max-lora-rank {room} --lora-modules student={repo}\n```"


def _evaluation(facts: Facts) -> str:
    parts = []
    if facts.heldout:
        lines = ["| | verified right | in form | mean score | mean reply length |", "|---|---|---|---|---|"]
        for name, summary in facts.heldout.items():
            lines.append(f"| {STAGES[name]} | {' | '.join(_cells(summary))} |")
        parts.append(
            f"On {_heldout_name(facts)}, greedy replies, judged by the verifier below, as `lite-huatuo train` measures "
            "before and after each stage:\n\n" + "\n".join(lines)
        )
    if facts.benchmarks:
        lines = ["| benchmark | accuracy | 95 % interval | questions | reading rule |", "|---|---|---|---|---|"]
        for found in facts.benchmarks.values():
            if found.get("accuracy") is not None:
                interval = f"{found['low']:.3f} to {found['high']:.3f}"
                cells = [found["title"], f"{found['accuracy']:.3f}", interval, str(found["questions"]), found["rule"]]
                lines.append(f"| {' | '.join(cells)} |")
        names = " ".join(f"--benchmark {name}" for name in facts.benchmarks)
        parts.append("\n".join(lines) + f"\n\nMade by `lite-huatuo eval RUN {names}`.")
    return "## Evaluation\n\n" + "\n\n".join(parts or ["Not evaluated."])


def _cells(summary: Log) -> list[str]:
    judged = summary["problems"] - summary["failed"]
    score = "-" if summary["score"] is None else f"{summary['score']:.3f}"
    return [
        f"{summary['right'] / judged:.2f} ({summary['right']}/{judged})" if judged else "-",
        f"{summary['well_formed']}/{summary['problems']}",
        score,
        f"{summary['length']:.0f} tokens",
    ]


def _training(facts: Facts, counts: Log) -> str:
    data, adapter, verifier = facts.recipe["data"], facts.recipe["adapter"], facts.recipe["verifier"]
    stages = ["SFT"] if facts.stage == "sft" else ["SFT", "PPO"]
    lines = [
        f"- Stages: {', then '.join(stages)}; LoRA of rank {adapter['rank']} (alpha {adapter['alpha']}) on one frozen "
        f"base, quantization {facts.recipe['base']['quantization']}.",
        f"- SFT data: {data['sft']}.",
        *([f"- PPO problems: {data['problems']}."] if facts.stage == "ppo" else []),
        *([f"- {', '.join(f'{count} {what}' for what, count in counts.items())}."] if counts else []),
        f"- Verifier: {verifier['kind']}{_verifier_model(verifier)}.{_acceptance(facts)}",
    ]
    packages = facts.environment.get("packages", {})
    if packages:
        used = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
        lines.append(f"- Made with lite-huatuo {facts.environment['lite_huatuo']}: {used}.")
    picture = f"\n\n![training curves]({PICTURE})" if facts.curves else ""
    return "## Training\n\n" + "\n".join(lines) + picture


def _verifier_model(verifier: Log) -> str:
    name = verifier.get("model") or verifier.get("profile") or verifier.get("adapter")
    return f" ({name})" if name else ""


def _acceptance(facts: Facts) -> str:
    """Return how good the verifier was on the shipped suite, with intervals."""
    if not facts.acceptance:
        return ""
    shares = {
        "accuracy": facts.acceptance["accuracy"],
        "false positive rate": facts.acceptance["false_positive_rate"],
        "recall": facts.acceptance["recall"],
    }
    said = ", ".join(
        f"{name} {share['value']:.3f} [{share['low']:.3f}, {share['high']:.3f}]"
        for name, share in shares.items()
        if share["value"] is not None
    )
    return f" On lite-huatuo's own suite of {facts.acceptance['n']} cases: {said} (95 % Wilson intervals)."


def _proof(figures: Log) -> str:
    if figures["onto"] == "adapter":
        return ""
    onto = {
        "base": "the original 16-bit base plus the adapter; close to the model as trained, not equal to it",
        "trained": "the dequantised 4-bit base plus the adapter; the model as trained",
    }[figures["onto"]]
    said = (
        f"## Weights\n\n{figures['dtype']}: {onto}. All {figures['tensors']} tensors were compared with base + "
        "unmerged adapter."
    )
    if figures["logits"] == "compared":
        said += (
            f" Next-token distributions differ from base + unmerged adapter by KL {figures['kl_to_unmerged']:.1e} and "
            f"from the model as trained by KL {figures['kl_to_trained']:.1e} nats a token."
        )
    return said


def _limits() -> str:
    return (
        "## Intended use and limits\n\nFor research on reasoning and on training with verifiable rewards. Not for "
        "clinical use: no diagnosis, treatment or advice to patients may rest on it. It states wrong things with "
        "confidence, its thinking need not be how it came to its answer, and a verifier's reward teaches what the "
        "verifier accepts. It was evaluated as told above and in no other way."
    )


def _licence(base: str, licence: licences.Licence | None, files: list[str]) -> str:
    part = f" Part of this model: {', '.join(files)}." if files else ""
    if licence is None:
        unknown = "they were not known when this card was written"
        return f"## Licence\n\nThe terms of {base} hold for this model; {unknown}.{part}"
    name = licence.name or licence.id
    link = f" ({licence.link})" if licence.link else ""
    return f"## Licence\n\n{name}{link}, that of {base}, whose terms hold for this model.{part}"


def _recipe(facts: Facts) -> str:
    text = yaml.safe_dump(facts.recipe, sort_keys=False, allow_unicode=True)
    return f"<details><summary>Recipe</summary>\n\n```yaml\n{text}```\n\n</details>"
