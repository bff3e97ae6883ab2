import asyncio
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.limits import limited

ROOT = Path(__file__).parents[2]
HANGS = """
import asyncio
import pytest

@pytest.mark.timeout(11)
async def test_hangs() -> None:
    await asyncio.Event().wait()
"""


async def test_what_takes_too_long_is_told() -> None:
    async def ends(words: str) -> None:
        assert words == "in time"

    await limited(ends, 10)("in time")
    assert list(inspect.signature(limited(ends, 10)).parameters) == ["words"]
    with pytest.raises(TimeoutError):
        await limited(asyncio.Event().wait, 0.01)()


@pytest.mark.slow
def test_a_test_that_hangs_is_ended(tmp_path: Path) -> None:
    (file := tmp_path / "test_hangs.py").write_text(HANGS)
    settings = ["-c", "pyproject.toml", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", *settings, file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "TimeoutError" in done.stdout
