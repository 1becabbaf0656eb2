"""Signals: one that comes where an exception would be printed and lost is kept for the next check."""

from __future__ import annotations

import os
import signal

import pytest

from lite_huatuo import stopping


def test_a_signal_in_a_finaliser_prints_nothing_and_is_raised_at_the_next_check(capfd: pytest.CaptureFixture) -> None:
    class Dying:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            sum(range(1000))  # the handler runs between two of these instructions

    with stopping.on_signals() as stop:
        Dying()
        assert stop.signal == signal.SIGINT
        with pytest.raises(stopping.Interrupted):
            stop.check()
        with pytest.raises(stopping.Interrupted):
            signal.raise_signal(signal.SIGINT)
    assert "Exception ignored" not in capfd.readouterr().err
