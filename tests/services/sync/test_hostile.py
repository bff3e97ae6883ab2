"""What hostile and clumsy relays can do to an archive: waste their own turn, and no more."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from bigbrotr.config.settings import Config, Link, Networks, SynchronizerSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.relay import Network, Relay
from bigbrotr.net.connect import Unreached
from bigbrotr.net.dial import dial
from bigbrotr.net.politeness import politeness_of
from bigbrotr.nostr.questions import End
from bigbrotr.nostr.session import Bounds, Page, Session
from bigbrotr.reads.relays import RelayProgress, progress
from bigbrotr.services.sync.ingest import sift as sorted_out
from bigbrotr.services.sync.report import Report
from bigbrotr.services.sync.worker import Slice, Worker
from bigbrotr.view.archive import relay_lines
from tests.kit.events import make_event
from tests.kit.model import Vices
from tests.kit.scripted import ScriptedRelay
from tests.net.test_frames import frame

ORDER = Slice("test", 60.0, {Network.LOCAL: 10})


async def visit(brotr: Brotr, *, times: int = 1, page_bytes: int = 1 << 22) -> Report:
    """Visits whatever relays there are, at once and as often as wanted."""
    config = Config(
        networks=Networks(clearnet=Link(enabled=False), local=Link(timeout_s=5.0)),
        synchronizer=SynchronizerSettings(
            settle_s=0, max_page_bytes=page_bytes, slice_s=60.0, revisit_s=3600.0
        ),
    )
    report = Report()
    for _ in range(times):
        politeness_of.cache_clear()  # as if a while had passed
        await brotr.pool.execute("UPDATE bigbrotr.visits SET due_at = 0")
        await brotr.pool.execute("UPDATE bigbrotr.gaps SET due_at = 0")
        report = await Worker(config, brotr).work(ORDER)
    return report


def forged(created_at: int, number: int) -> dict[str, object]:
    """An event whose id is not the hash of its bytes."""
    return make_event(created_at, content=f"forged {number}") | {"content": "changed"}


async def test_invalid_events_on_top_hide_nothing(brotr: Brotr) -> None:
    good = [make_event(1_600_000_000 + n, content=str(n)) for n in range(120)]
    junk = [forged(1_700_000_000 + n, n) for n in range(60)]
    async with ScriptedRelay([*good, *junk], Vices(clamp=50)) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        await visit(brotr)
        assert (await brotr.totals()).pairs == len(good)
        rejected = await brotr.pool.fetch("SELECT reason, count FROM bigbrotr.rejected")
        assert [row["reason"] for row in rejected] == ["bad id"]
        assert rejected[0]["count"] >= len(junk)


async def test_invalid_events_fill_a_second(brotr: Brotr) -> None:
    second = 1_650_000_000
    good = [make_event(second, content=str(n)) for n in range(30)]
    junk = [forged(second, n) for n in range(60)]
    old = [make_event(second - 1000 - n) for n in range(10)]
    async with ScriptedRelay([*good, *junk, *old], Vices(clamp=50)) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        await visit(brotr)
        archived = (await brotr.totals()).pairs
        gaps = await brotr.pool.fetch("SELECT span FROM bigbrotr.gaps")
        # The relay hands out 50 of 90 in that second: whole, or a gap that says so.
        assert archived == 40 or any(
            row["span"].lower <= second < row["span"].upper for row in gaps
        )
        assert archived >= len(old)


async def test_large_events_make_smaller_pages(brotr: Brotr) -> None:
    events = [make_event(1_600_000_000 + n, content=f"{n}" + "x" * 50_000) for n in range(60)]
    async with ScriptedRelay(events) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        await visit(brotr, page_bytes=300_000)
        assert (await brotr.totals()).pairs == len(events)
        assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.gaps") == 0
        # What was still on its way when a page was full is not late.
        assert "linger" not in await brotr.pool.fetchval(
            "SELECT dialect::text FROM bigbrotr.visits"
        )


async def test_progress_counts_attempts_anew(brotr: Brotr) -> None:
    events = [make_event(1_600_000_000 + n, content=str(n)) for n in range(200)]
    async with ScriptedRelay(events, Vices(clamp=20, rate_limited_after=4)) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        for _ in range(12):
            await visit(brotr)
            attempts = await brotr.pool.fetchval("SELECT max(attempts) FROM bigbrotr.gaps")
            assert attempts in (None, 0, 1)
            row = await brotr.pool.fetchrow("SELECT outcome, due_at FROM bigbrotr.visits")
            assert row is not None
            if row["outcome"] == "rate-limited":
                assert row["due_at"] > time.time() + 400  # it is left alone
            if (await brotr.totals()).pairs == len(events):
                break
        assert (await brotr.totals()).pairs == len(events)


async def test_reasons_do_not_grow_with_what_a_relay_invents(brotr: Brotr) -> None:
    good = make_event(1_600_000_000)
    junk = []
    for n in range(100):
        event = make_event(1_600_000_001 + n, content="x" * n)
        junk.append(event | {"tags": [["e", n]]})
    async with ScriptedRelay([good, *junk]) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        await visit(brotr)
        rows = await brotr.pool.fetch("SELECT reason, samples FROM bigbrotr.rejected")
        assert 1 <= len(rows) <= 3
        assert all(len(row["samples"]) <= 3 for row in rows)


async def test_bad_row_stops_nobody(brotr: Brotr) -> None:
    async with ScriptedRelay([make_event(1_600_000_000)]) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        await brotr.pool.execute(
            "SELECT bigbrotr.insert_relays('{wss://bad host}', '{local}', '{0}')"
        )
        await brotr.pool.execute(
            "INSERT INTO bigbrotr.candidates (url, network, source, discovered_at, due_at)"
            " VALUES ('ws://also bad', 'local', 'hand', 0, 0)"
        )
        await visit(brotr)
        assert (await brotr.totals()).pairs == 1
        outcomes = await brotr.pool.fetch("SELECT outcome FROM bigbrotr.visits ORDER BY outcome")
        assert [row["outcome"] for row in outcomes] == ["complete", "invalid-url"]
        wanted = {"limit": 5, "max_attempts": 9, "owner": "x", "lease_s": 60}
        assert await brotr.claim_candidates(Network.LOCAL, **wanted) == []  # type: ignore[arg-type]
        row = await brotr.pool.fetchrow("SELECT outcome, attempts FROM bigbrotr.candidates")
        assert row is not None
        assert tuple(row) == ("invalid-url", 1)


@asynccontextmanager
async def flood(noise: bytes) -> AsyncIterator[str]:
    """A relay that upgrades and then sends the same frames for ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from websockets.server import ServerProtocol

        protocol = ServerProtocol()
        protocol.receive_data(await reader.readuntil(b"\r\n\r\n"))
        [request] = protocol.events_received()
        protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]
        try:
            writer.write(b"".join(protocol.data_to_send()))
            while True:
                writer.write(noise)
                await writer.drain()
        except OSError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    "noise",
    [frame(0x9, b"") * 5000, frame(0x1, b"") * 5000, frame(0x1, b'["NOTICE","x"]') * 2000],
    ids=["pings", "empty frames", "notices"],
)
async def test_floods_end_the_conversation(noise: bytes) -> None:
    async with flood(noise) as url:
        stream = await dial(
            Relay(url), Link(timeout_s=20.0), max_frame_bytes=1 << 20, allow_local=True
        )
        assert not isinstance(stream, Unreached)
        async with Session(stream) as session, asyncio.timeout(20):
            page = await session.fetch({"limit": 1}, Bounds(20.0, 60.0, 100_000))
            assert page.end is End.CUT
            assert not session.is_open


@pytest.mark.parametrize("words", ["no [/x] here", "[bold]", "\x1b]0;pwned\x07 \x1b[2J"])
async def test_words_of_a_relay_are_only_words(brotr: Brotr, words: str) -> None:
    async with ScriptedRelay([], Vices(refuses=f"error: {words}")) as relay:
        await brotr.insert_relays([Relay(relay.url)])
        await visit(brotr)
        shown = rendered(await progress(brotr.pool))
        assert "error:" in shown
        assert "\x1b]" not in shown
        assert "\x07" not in shown


def rendered(rows: Sequence[RelayProgress]) -> str:
    return "\n".join(line.plain for line in relay_lines(rows, 300, ways=True))


@pytest.mark.parametrize("is_ours", [True, False])
async def test_what_one_relay_makes_our_code_raise_is_its_alone(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    """But what the database raises ends the slice, as before."""
    error = ZeroDivisionError("nobody thought of this")
    poison = make_event(1_600_000_000, content="poison")

    def sift(page: Page, *rest: Any) -> Any:
        if is_ours and any(getattr(each, "created_at", 0) == 1_600_000_000 for each in page.events):
            raise error
        return sorted_out(page, *rest)

    async def refused(*_: Any, **__: Any) -> Any:
        raise asyncpg.ConnectionDoesNotExistError("the server has gone")

    monkeypatch.setattr("bigbrotr.services.sync.pages.sift", sift)
    if not is_ours:
        monkeypatch.setattr(brotr, "store_page", refused)
    async with ScriptedRelay([poison]) as bad, ScriptedRelay([make_event()]) as good:
        await brotr.insert_relays([Relay(bad.url), Relay(good.url)])
        if not is_ours:
            with pytest.raises(ExceptionGroup):
                await visit(brotr)
            return
        report = await visit(brotr)
        assert report.outcomes == {"defect": 1, "complete": 1}
        row = await brotr.pool.fetchrow("SELECT * FROM bigbrotr.visits WHERE outcome = 'defect'")
        assert row is not None
        assert (row["failures"], row["owner"]) == (1, None)
        assert row["detail"] == "ZeroDivisionError: nobody thought of this"
        assert row["due_at"] > time.time() + 20
        assert (await brotr.totals()).pairs == 1
