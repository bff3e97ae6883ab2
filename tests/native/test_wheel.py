"""The package by itself: what its wheel holds, and that all goes on where it cannot be built."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.kit.processes import environment

ROOT = Path(__file__).parents[2]


def test_one_wheel_for_all_pythons(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"),
            *("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path)),
            str(ROOT / "native"),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("bigbrotr_native-*-py3-none-*.whl")
    assert "any" not in wheel.name
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if "dist-info" not in name}
        assert opened.read("bigbrotr_native/native.so").startswith(b"\x7fELF")
    assert names == {f"bigbrotr_native/{name}" for name in ("__init__.py", "native.so", "py.typed")}


@pytest.mark.parametrize(
    ("compiler", "pip_says", "words"),
    [
        ("no-such-compiler -O2", 0, "no C compiler: events are read and verified one by one"),
        ("sh", 1, "native/ cannot be compiled: events are read and verified one by one"),
        ("sh", 0, ""),
    ],
)
def test_make_goes_on_without_it(compiler: str, pip_says: int, words: str, tmp_path: Path) -> None:
    """With a virtual environment that is there already, and a pip that does nothing."""
    (tmp_path / "bin").mkdir()
    for name in ("python", "pip"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\necho why\nexit {pip_says}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / ".run").touch()
    done = subprocess.run(
        ["make", "--no-print-directory", f"VENV={tmp_path}", os.fspath(tmp_path / ".native")],
        cwd=ROOT,
        env=environment(CC=compiler),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
    assert ("why" in done.stdout) == bool(pip_says)
    assert (tmp_path / ".native").exists() == (not words)  # else it is tried again
