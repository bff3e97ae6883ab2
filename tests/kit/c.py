"""Compiles C, for tests that look below what Python sees."""

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = pytest.mark.skipif(
    importlib.util.find_spec("bigbrotr_native") is None, reason="native/ is not compiled"
)
HEADERS = Path(__file__).parents[2] / "native" / "c"
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wno-unused-function", "-Werror"]


def library(folder: Path, source: Path, *flags: str) -> ctypes.CDLL:
    """A library of one file, which may include the headers of `native/c`."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    made = folder / f"{source.stem}.so"
    command = [
        "cc",
        "-std=c11",
        "-O1",
        *WARNINGS,
        "-fPIC",
        "-shared",
        *(f"-I{each}" for each in (HEADERS, source.parent)),
    ]
    done = subprocess.run(
        [*command, *flags, "-o", str(made), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(made))
