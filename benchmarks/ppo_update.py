"""What one PPO update costs, beside TRL's PPOTrainer and beside the least work there is: seconds and peak memory.

    python benchmarks/ppo_update.py [--updates 5] [--minibatches 1 4] [--quantization none nf4] [--json FILE]

A random Llama (hidden 512, 8 layers, vocabulary 8192), 16 episodes, queries of 32 to 64 tokens, 3 epochs, LoRA of rank
16. The lengths of the replies are drawn (log-normal, median 48, at most 256) and forced on every contender. Contenders:

* `ours`: this project. `ours-trunk`: its critic has 2 of the 8 layers for itself, the others are the reference's.
  `ours-kept`: NF4 with `base.keep_dequantised`.
* `trl-lora`, `trl-full`: TRL 1.12.0, the last release with PPO, in a virtual environment that is made on the first run
  (in ~/.cache/lite-huatuo/bench, 1.7 GB). LoRA on policy and value model, or full parameters in float32.
* `floor`: a hand-written loop of one generation, one pass for each role, and the epochs, on real tokens only.

Every contender is a process of its own and they take turns, update by update, after one update to warm up; so what else
the machine does falls on all alike. Ratios are medians over the turns. Processor seconds ("CPU") are what to read on a
machine that does other work too. Memory is the peak of resident memory after loading, less that after the imports.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks" / "contenders"
sys.path[:0] = [str(ROOT), str(HERE)]

TRL = "1.12.0"
PHASES = ("rollout", "scoring", "learning")
CONTENDERS: dict[str, list[str]] = {  # name: script and arguments
    "ours": ["ours.py"],
    "ours-trunk": ["ours.py", "--trunk", "2"],
    "ours-kept": ["ours.py", "--keep-dequantised"],
    "trl-lora": ["trl_ppo.py", "--peft", "lora"],
    "trl-full": ["trl_ppo.py", "--peft", "none"],
    "floor": ["floor.py"],
}
ONLY = {"trl-full": "none", "ours-kept": "nf4"}  # 4-bit weights cannot be trained; a float32 base has nothing to keep
RATIOS = [
    ("trl-lora", "ours"),
    ("trl-lora", "ours-trunk"),
    ("trl-full", "ours"),
    ("ours", "floor"),
    ("ours-trunk", "floor"),
    ("ours", "trl-lora"),
    ("ours-kept", "ours"),
]


class Process:
    """One contender, loaded and waiting."""

    def __init__(self, name: str, python: str, work: Path, words: list[str]) -> None:
        script, *arguments = CONTENDERS[name]
        self.name = name
        self.log = work / f"{name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, str(HERE / script), str(work), *arguments, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.facts = self._read()

    def update(self) -> dict[str, Any]:
        """Have it run one update; return its report."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._read()

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} failed:\n{self.log.read_text()[-3000:]}")
        return json.loads(line)


def trl_python() -> str:
    """Return the Python of the virtual environment with TRL's PPO; make it if it is not there."""
    folder = Path.home() / ".cache" / "lite-huatuo" / "bench" / f"trl-{TRL}"
    python, done = folder / "bin" / "python", folder / "ready"
    if not done.exists():
        print(f"making {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        kept = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("trl==")]
        (folder / "constraints.txt").write_text("\n".join(kept) + "\n")
        pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(folder / "constraints.txt")]
        # torch first: without a GPU, set TORCH_INDEX as for `make`, or pip brings gigabytes of CUDA libraries
        subprocess.run([*pip, *os.environ.get("TORCH_INDEX", "").split(), "torch"], check=True)
        subprocess.run([*pip, f"trl=={TRL}", "peft", "bitsandbytes"], check=True)
        done.touch()
    return str(python)


def compare(names: list[str], work: Path, words: list[str], updates: int) -> dict[str, Any]:
    """Run the contenders by turns; return what each reported, and its facts."""
    running: list[Process] = []
    try:
        for name in names:
            python = trl_python() if name.startswith("trl") else sys.executable
            running.append(Process(name, python, work, words))
        reports: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for turn in range(updates + 1):
            for contender in running:
                report = contender.update()
                print(f"{contender.name} {turn}: {report['cpu']:.1f} s of CPU", file=sys.stderr)
                if turn:  # the first is to warm up
                    reports[contender.name].append(report)
        return {one.name: {**one.facts, "updates": reports[one.name]} for one in running}
    finally:
        for contender in running:
            contender.stop()


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Return medians by contender, and ratios: medians over the turns."""
    rows, ratios = {}, {}
    for name, facts in found.items():
        updates = facts["updates"]
        row = {kind: statistics.median(update[kind] for update in updates) for kind in ("wall", "cpu")}
        for phase in PHASES:
            row[f"{phase} cpu"] = statistics.median(update["phases"][phase]["cpu"] for update in updates)
        for kind in ("wall", "cpu"):
            row[f"tokens per {kind} s"] = statistics.median(u["real_tokens"] / u[kind] for u in updates)
        peak = max(update["peak_rss_mib"] for update in updates)
        rows[name] = {**row, "peak MiB": peak, "peak MiB above imports": peak - facts["import_rss_mib"]}
    for upper, lower in RATIOS:
        if upper in found and lower in found:
            pairs = list(zip(found[upper]["updates"], found[lower]["updates"], strict=True))
            memory = "peak MiB above imports"
            ratios[f"{upper} / {lower}"] = {
                **{kind: statistics.median(a[kind] / b[kind] for a, b in pairs) for kind in ("wall", "cpu")},
                **{
                    f"{phase} cpu": statistics.median(
                        a["phases"][phase]["cpu"] / b["phases"][phase]["cpu"] for a, b in pairs
                    )
                    for phase in PHASES
                },
                memory: rows[upper][memory] / rows[lower][memory],
            }
    return {"contenders": rows, "ratios": ratios}


def show(title: str, shown: dict[str, Any], found: dict[str, Any]) -> None:
    """Print the table of one case."""
    columns = ["wall", "cpu", *(f"{phase} cpu" for phase in PHASES), "tokens per cpu s", "peak MiB above imports"]
    heads = ["wall s", "CPU s", *(f"{phase} CPU s" for phase in PHASES), "tokens/CPU s", "MiB above imports"]
    print(f"\n{title}\n{'':20}" + "".join(f"{head:>19}" for head in heads))
    for name, row in shown["contenders"].items():
        print(f"{name:20}" + "".join(f"{row[column]:19.1f}" for column in columns))
    for name, row in shown["ratios"].items():
        print(f"{name:20}" + "".join(f"{row[c]:19.3f}" if c in row else " " * 19 for c in columns))
    for name, facts in found.items():
        print(f"  {name}: {facts['settings']}")


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": model, "cores": os.cpu_count(), "memory GiB": round(memory, 1), "load": os.getloadavg()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=5, help="that count; one more comes before them")
    parser.add_argument("--minibatches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--quantization", nargs="+", choices=["none", "nf4"], default=["none", "nf4"])
    standard = ["ours", "ours-trunk", "trl-lora", "trl-full", "floor"]
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=standard)
    parser.add_argument("--threads", type=int, default=1, help="of every contender")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write everything there")
    arguments = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS=str(arguments.threads), TRL_EXPERIMENTAL_SILENCE="1", HF_HUB_OFFLINE="1")
    import workload

    cases = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        load = workload.write(work, updates=arguments.updates + 1, seed=arguments.seed, threads=arguments.threads)
        before = machine()
        print(before)
        for quantization in arguments.quantization:
            names = [name for name in arguments.contenders if ONLY.get(name, quantization) == quantization]
            for minibatches in arguments.minibatches:
                words = ["--quantization", quantization, "--minibatches", str(minibatches)]
                found = compare(names, work, words, arguments.updates)
                case = {"quantization": quantization, "minibatches": minibatches, **summary(found)}
                show(f"quantization {quantization}, minibatches {minibatches}", case, found)
                cases.append({**case, "found": found})
                if arguments.json:
                    told = {"command": sys.argv, "machine": before, "work": load, "cases": cases}
                    arguments.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
