"""`bigbrotr events`: what matches, as lines of JSON, or what is wrong with the filter."""

import json

import pytest

from tests.cli.conftest import EVENTS
from tests.kit.processes import Place

NEWEST = [event["id"] for event in reversed(EVENTS)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ([], NEWEST),
        (["--limit", "3"], NEWEST[:3]),
        (["--author", EVENTS[0]["pubkey"], "--kind", "1", "--kind", "7"], NEWEST),
        (["--kind", "7"], []),
        (["--tag", "t=nostr"], []),
        (["--id", EVENTS[5]["id"]], [EVENTS[5]["id"]]),
        (["--since", "1600000038"], NEWEST[:2]),
        (["--until", "2020-09-13T12:26:41Z"], NEWEST[-2:]),
        (["--filter", '{"kinds": [1], "limit": 2}'], NEWEST[:2]),
        (["--filter", '{"kinds": [1], "limit": 2}', "--all"], NEWEST),
    ],
)
async def test_what_matches_is_printed(archive: Place, options: list[str], ids: list[str]) -> None:
    done = await archive.call("events", *options)
    assert (done.code, done.err) == (0, "")
    assert [json.loads(line)["id"] for line in done.out.splitlines()] == ids


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--filter", "{"], "the filter is no JSON"),
        (["--filter", '{"kind": [1]}'], "'kind' is no part of a filter"),
        (["--filter", "{}", "--kind", "1"], "--filter says all"),
        (["--filter", "{}", "--search", "note"], "--filter says all"),
        (["--search", "note"], "no index of words"),
        (["--filter", '{"search": "note"}'], "no index of words"),
        (["--author", "npub1"], "is no public key"),
        (["--kind", "70000"], "kinds: each"),
        (["--tag", "nostr"], "LETTER=VALUE"),
        (["--tag", "tt=nostr"], "'#tt' is no part of a filter"),
        (["--since", "yesterday"], "neither a date"),
        (["--limit", "0"], "not a number from 1 on"),
    ],
)
async def test_what_is_wrong_is_told(archive: Place, options: list[str], words: str) -> None:
    done = await archive.call("events", *options)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
