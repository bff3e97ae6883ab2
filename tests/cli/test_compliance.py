"""`bigbrotr compliance`: what a relay has kept, and what is said where there is nothing."""

import json
from pathlib import Path

import pytest

from bigbrotr.core.brotr import Brotr
from tests.kit.archive import A, B, ordered, pairs
from tests.kit.events import NOW, verified
from tests.kit.processes import call
from tests.services.test_compliance import count, prove


@pytest.fixture
def config(dsn: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "compliance.toml"
    path.write_text(f'[database]\nurl = "{dsn}"\n')
    return ["--config", str(path)]


async def test_what_a_relay_has_kept(brotr: Brotr, config: list[str]) -> None:
    events = [verified(f"{n}") for n in range(2)]
    request = verified(kind=5, created_at=NOW + 5, tags=[["e", event.id.hex()] for event in events])
    await brotr.insert_events(pairs(ordered([*events, request]), A))
    await brotr.insert_events(pairs(events, B))
    await count(brotr)
    done = await call("compliance", A.url, *config)
    assert (done.code, done.err) == (0, "")
    assert done.out.count("not proven since") == 2
    await prove(brotr, A, NOW + 60)
    done = await call("compliance", A.url.removeprefix("wss://"), "--json", *config)
    found = [json.loads(line) for line in done.out.splitlines()]
    assert {each["event"] for each in found} == {event.id.hex() for event in events}
    assert {(each["request"], each["held_as_of"]) for each in found} == {
        (request.id.hex(), NOW + 60)
    }
    done = await call("compliance", B.url, *config)
    assert (done.code, done.out) == (0, "")
    assert "0 events held after it was asked to delete them" in done.sentence


@pytest.mark.usefixtures("brotr")
@pytest.mark.parametrize(
    ("relay", "sentence"),
    [
        ("wss://unknown.example.com", "is no relay of this archive"),
        ("http://x", "is not a relay URL"),
    ],
)
async def test_what_is_wrong_is_told(config: list[str], relay: str, sentence: str) -> None:
    done = await call("compliance", relay, *config)
    assert (done.code, done.out) == (2, "")
    assert sentence in done.sentence
