"""The regression gate: is a student significantly below the base it began from, on what `eval` asked both?"""

from __future__ import annotations

from pathlib import Path

from lite_huatuo.cli import terminal


def below_base(run: Path, stage: str) -> list[str]:
    """Return why a run's stage is significantly below its base; empty where it is not, or one was not evaluated."""
    from lite_huatuo.evaluation import compare, predictions

    base, student = run / "eval" / "base", run / "eval" / stage
    if not all(any(folder.glob(f"*{predictions.SETTINGS}")) for folder in (base, student)):
        return []
    reasons = compare.gate(compare.compare(base, student))
    return [f"{run}/{stage} is significantly below its base {reason}" for reason in reasons]


def evaluate(run: Path, stages: tuple[str, ...]) -> None:
    """Ask base and stages the recipe's benchmarks, as `eval` does, and warn where a stage is below the base."""
    from lite_huatuo.cli import eval as evaluation

    for stage in ("base", *stages):
        evaluation.command.main([f"{run}/{stage}"], standalone_mode=False)
    for stage in stages:
        for line in below_base(run, stage):
            terminal.say(f"warning: {line}", err=True)
