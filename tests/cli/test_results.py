"""What a finished run shows."""

from __future__ import annotations

from lite_huatuo.cli.results import cells, sparkline


def test_a_sparkline_goes_from_the_least_to_the_greatest() -> None:
    assert sparkline([0.0, 1.0, 0.5]) == "▁█▅"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert len(sparkline([float(i) for i in range(1000)])) == 40
    assert sparkline([float(i) for i in range(1000)])[-1] == "█"


def test_every_share_has_its_count_and_failures_are_left_out_of_scores() -> None:
    summary = {
        "problems": 10,
        "failed": 2,
        "well_formed": 9,
        "right": 4,
        "score": 0.5,
        "score_standard_error": 0.1,
        "length": 99.6,
    }
    assert cells(summary) == ["0.90 (9/10)", "0.500 ± 0.100 (n=8)", "0.50 (4/8)", "100 tokens (n=10)"]
