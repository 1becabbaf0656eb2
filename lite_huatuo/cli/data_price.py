"""`--dry-run` of the `data` commands that ask models: the price table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lite_huatuo.cli.data_models import Job

HEAD = ("step", "model", "calls", "input tokens", "output tokens", "dollars")


def table(job: Job, sample: int, right: float) -> str:
    """Return what the job will cost as a table, rehearsed on a sample, with what was assumed."""
    import asyncio

    from lite_huatuo.cli.data_models import chosen
    from lite_huatuo.planning import cost

    assumed = cost.Assumed(right=right)
    models = [cost.Rehearsal(model, assumed) for _, model in job.models]
    records, total = cost.spread(lambda: chosen(job), sample)
    work = job.make([model.ask for model in models], [model.unpaid for model in models])
    failed = asyncio.run(cost.rehearse(records, work, models))
    rows, sums = [], cost.Line()
    dollars = 0.0
    for model in models:
        for step, line in cost.scaled(model.lines, total / max(1, len(records))).items():
            price = line.dollars(model.profile, batch=job.settings.batch)
            rows.append((step, model.profile.model, *_cells(line, price)))
            sums = cost.Line(sums.calls + line.calls, sums.input + line.input, sums.output + line.output)
            dollars += price
    rows.append(("all", "", *_cells(sums, dollars)))
    return "\n".join(
        [
            f"{job.name} of {total:,} records{', as batch jobs' if job.settings.batch else ''}: an estimate from a "
            f"rehearsal of {len(records):,}{f', {failed} of which failed' if failed else ''}; nothing was asked",
            "",
            f"| {' | '.join(HEAD)} |",
            f"|{'---|' * 2}{'---:|' * 4}",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            f"Assumed: {right:.0%} of conclusions are right, {assumed.solved:.0%} of small models' answers; a chain of "
            f"{cost.THOUGHT_TOKENS} tokens, a complex CoT of {cost.REPLY_TOKENS['rewrite.thinking']}; a token is 4 "
            "characters (Chinese: 1.5); hidden reasoning takes a quarter of what the profile allows.",
        ]
    )


def _cells(line: object, dollars: float) -> tuple[str, ...]:
    calls, read, written = line.calls, line.input, line.output  # type: ignore[attr-defined]
    return f"{calls:,.0f}", f"{read:,.0f}", f"{written:,.0f}", f"{dollars:,.2f}"
