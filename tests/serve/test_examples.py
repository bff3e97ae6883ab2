"""The examples of the page about the API: they run, against a real server."""

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.relay import Relay
from tests.kit.served import Served, fill, served

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")
BLOCKS = [
    (language, text)
    for language, text in re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", PAGE)
    if language in ("python", "js") or (language == "sh" and "curl" in text)
]
PROGRAMS = {
    "python": [sys.executable, "-c"],
    "js": ["node", "--input-type=module", "-e"],
    "sh": ["bash", "-euc"],
}


@pytest.fixture
async def api(dsn: str, brotr: Brotr) -> AsyncIterator[Served]:
    await fill(brotr)
    await brotr.insert_relays([Relay("wss://relay.example.com")])
    async with served(dsn) as found:
        yield found


@pytest.mark.parametrize(
    ("language", "text"), BLOCKS, ids=[f"{block[0]}-{n}" for n, block in enumerate(BLOCKS)]
)
async def test_example(language: str, text: str, api: Served) -> None:
    program, *options = PROGRAMS[language]
    if shutil.which(program) is None or (language == "sh" and shutil.which("curl") is None):
        pytest.skip(f"no {program}, or no curl")
    script = text.replace("http://127.0.0.1:7447/api/v1", api.url).replace("curl ", "curl -sSf ")
    process = await asyncio.create_subprocess_exec(
        program,
        *options,
        script,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert b"relay1.example.com" in out


def test_there_are_examples_of_each_kind() -> None:
    assert {language for language, _ in BLOCKS} == PROGRAMS.keys()
