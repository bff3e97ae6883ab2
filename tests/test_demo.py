"""`bigbrotr demo`: an archive of its own, made twice, and nobody else's folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.processes import call
from tests.kit.terminal import Terminal


@pytest.mark.slow
async def test_demo(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    shown = terminal("demo", "--data-dir", str(tmp_path / "demo"), cwd=tmp_path)
    assert await shown.ends() == 0, shown.read()
    text = shown.read()
    for words in ("making 4,000 signed events", "Archived in", "relays 4", "services", "complete"):
        assert words in text, words
    assert "gaps 0   rejected 0" in text
    # Again, over the first, this time into a file: without any escape sequence.
    done = await call("demo", "--data-dir", str(tmp_path / "demo"))
    assert done.code == 0
    assert "Archived in" in done.err + done.out
    assert "\x1b" not in done.err + done.out
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    done = await call("demo", "--data-dir", str(other))
    assert done.code == 2
    assert "holds something else" in done.sentence
    assert (other / "thesis.txt").exists()
