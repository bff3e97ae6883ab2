"""Prometheus' own tool, where there is one."""

import shutil
import subprocess

import pytest


def run_promtool(*words: str, stdin: str | None = None) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: Debian's package prometheus has it")
    done = subprocess.run(
        [promtool, *words], input=stdin, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
