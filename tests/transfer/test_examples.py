"""The examples of docs/datasets.md run, on a snapshot, and say what they claim."""

import re
from pathlib import Path

import duckdb
import pytest

from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.exchange import DroppedEvent
from bigbrotr.models.metadata import Metadata, MetadataType, RelayMetadata
from bigbrotr.models.policy import View
from bigbrotr.transfer import snapshot
from tests.kit.archive import A, B, C, pairs, relay_id
from tests.kit.events import NOW, pubkey, verified

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"
EXAMPLES = re.findall(r"(?ms)^```duckdb\n(.*?)^```$", PAGE.read_text("utf-8"))
ANSWERS = {
    "How many relays hold": [(1, 1), (2, 2)],
    "Replication by month": [("2025-06", 3, 2.0, 1)],
    "Where do an author's posts live": [(A.url, 3, 1.0), (B.url, 2, 0.667)],
    "The fewest relays": [(A.url, 3), (B.url, 2)],
    "Retention": [(C.url, 1, 1.0, 2.0), (A.url, 0, 0.0, None), (B.url, 0, 0.0, None)],
    "Who does not have it": [(C.url,)],
    "The delay until": [([1.0, 1.0, 1.0],)],
    "Hashtags": [("nostr", 2)],
    "How steady and how quick": [(A.url, 2, 0.5, 6.0)],
    "What relays say they run": [("strfry", 1)],
}


async def fill(brotr: Brotr) -> None:
    events = [
        verified("one", [["t", "Nostr"]], created_at=NOW - 2),
        verified("two", [["t", "nostr"], ["t"]], created_at=NOW - 1),
        verified("three", created_at=NOW),
    ]
    await brotr.insert_events(pairs(events, A, seen_at=NOW + 60))
    await brotr.insert_events(pairs(events[:2], B, seen_at=NOW + 120))
    await brotr.insert_relays([C])
    number = await relay_id(brotr, C)
    gone = DroppedEvent(events[0].created_at, events[0].id, NOW, NOW + 2 * 86_400)
    await brotr.note_dropped(number, [gone])
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.coverage (relay_id, how, proven, proven_at)"
        " VALUES ($1, 'paging', int8multirange(int8range(0, $2)), $2)",
        number,
        NOW + 900,
    )
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.rtts (relay_id, holds_s, checked_at, outcome, tcp_ms, tls_ms,"
        " upgrade_ms) VALUES ($1, 9, $2, NULL, 1, 2, 3), ($1, 9, $2 + 1, 'timeout', NULL, NULL,"
        " NULL)",
        await relay_id(brotr, A),
        NOW,
    )
    documents = [
        RelayMetadata(A, Metadata({"software": name}), MetadataType.NIP11, NOW + n)
        for n, name in enumerate(("other", "strfry"))
    ]
    await brotr.insert_relay_metadata(documents)


@pytest.mark.slow
@pytest.mark.one_server  # a cluster has no moment that could be exported
async def test_the_examples_run(
    brotr: Brotr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(brotr)
    await snapshot.take(brotr.pool, tmp_path, View.ARCHIVE, "full")
    monkeypatch.chdir(tmp_path)
    assert len(EXAMPLES) >= 12
    left = dict(ANSWERS)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for example in EXAMPLES:
            found = connection.execute(example.replace("…", pubkey())).fetchall()
            assert found, example
            title = example.partition("\n")[0].removeprefix("-- ")
            for words in [each for each in left if title.startswith(each)]:
                assert found == left.pop(words), example
    assert not left
