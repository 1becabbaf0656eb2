"""The docs' commands that serve a page, typed as they stand but for the port: they answer, and end at Ctrl-C."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from lite_huatuo.run_dir import RunDir
from tests.docs import commands

pytestmark = pytest.mark.browser
SERVED = sorted({typed.text for page in commands.PAGES for typed in commands.in_blocks(page) if "--web" in typed.words})


@pytest.mark.parametrize("text", SERVED)
def test_a_page_is_served(text: str, toy_run: RunDir, tmp_path: Path) -> None:
    shutil.copytree(toy_run.path, tmp_path / "runs" / "demo")
    words = [sys.executable, "-m", "lite_huatuo", *text.split()[1:], "--port", "0"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+", child.stdout.readline())
        assert address
        assert "lite-huatuo" in httpx.get(address[0], timeout=60).text
        child.send_signal(signal.SIGINT)
        assert child.wait(60) in (0, 130)
