"""Changes of state as pages and as a stream of events: none is missed, whoever dies meanwhile."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from bigbrotr.config.settings import ServeLimits
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.relay import Relay
from bigbrotr.serve import changes, service
from bigbrotr.serve.problems import RefusedError
from tests.kit.processes import until
from tests.kit.real import free_port
from tests.kit.served import served, serving
from tests.serve.test_hostile import slow_reader

NUMBER = 6  # changes at the beginning
EVENTS = {"Accept": "text/event-stream"}


async def change(brotr: Brotr, times: int = 1, reason: str = "") -> None:
    """So many changes of the relays, as `record_checks` notes them."""
    await brotr.pool.execute("UPDATE bigbrotr.checks SET state = 'down', detail = $1", reason)
    for _ in range(times):
        await brotr.pool.execute(
            "SELECT bigbrotr.note_changes(p_relay_ids => $1, p_befores => '{up}', p_now => 7)",
            [await brotr.pool.fetchval("SELECT min(id) FROM bigbrotr.relays")],
        )


@pytest.fixture
async def filled(brotr: Brotr) -> Brotr:
    await brotr.insert_relays([Relay("wss://a.example.com"), Relay("wss://b.example.com")])
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.checks (relay_id, due_at, state, since, outcome)"
        " SELECT id, 0, 'up', 5, 'refused' FROM bigbrotr.relays"
    )
    await change(brotr, NUMBER)
    return brotr


class Stream:
    """A client of events, which reads one after the other."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.last = ""  # the id of the last event

    async def block(self) -> dict[str, str]:
        """The fields of the next event or comment; empty: the end."""
        found: dict[str, str] = {}
        async with asyncio.timeout(60):
            while line := (await self.response.content.readline()).decode():
                if line == "\n":
                    return found
                name, _, value = line.rstrip("\n").partition(":")
                found[name] = value.strip()
        return {}

    async def next(self) -> dict[str, str]:
        """The next event."""
        while True:
            found = await self.block()
            if not found or "data" in found:
                self.last = found.get("id", self.last)
                return found

    async def ids(self, number: int) -> list[int]:
        """The numbers of the next changes."""
        return [json.loads((await self.next())["data"])["id"] for _ in range(number)]


@asynccontextmanager
async def following(url: str, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout) as client,
        client.get(f"{url}/changes{query}", headers=EVENTS | names) as response,
    ):
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        yield Stream(response)


async def test_pages(dsn: str, filled: Brotr) -> None:
    async with served(dsn) as api:
        items = await api.all("changes", 4)
        assert [each["id"] for each in items] == list(range(1, NUMBER + 1))
        assert items[0] == {
            "id": 1,
            "relay": "wss://a.example.com",
            "network": "clearnet",
            "before": "up",
            "state": "down",
            "since": 5,
            "reason": "refused",
            "noted_at": 7,
        }
        assert (await api.get("changes?after=4")).json["items"] == items[4:]
        assert (await api.get("changes?relay=b.example.com")).json["items"] == []
        assert await api.stream("changes?after=2") == items[2:]
        await api.get("changes?after=-1", status=400)
        await api.get("changes", status=400, Accept="text/event-stream", Last_Event_ID="x")
        told = (await api.get("openapi.json")).json["paths"]["/changes"]["get"]
        assert "text/event-stream" in told["responses"]["200"]["content"]
        head = await api.get("changes", method="HEAD", Accept="text/event-stream")
        assert head.body == b""


async def test_what_comes_is_told(dsn: str, filled: Brotr) -> None:
    async with served(dsn) as api:
        async with (
            following(api.url) as new,
            following(api.url, "?after=0") as whole,
            following(api.url, "?after=0", Last_Event_ID="4") as rest,
            following(api.url, "?relay=b.example.com") as other,
        ):
            assert await whole.ids(NUMBER) == [1, 2, 3, 4, 5, 6]
            assert await rest.ids(2) == [5, 6]
            await change(filled)
            assert [await each.ids(1) for each in (new, whole, rest)] == [[7]] * 3
            assert api.service.change_streams == 4
            asked = api.service._asking
            assert asked == 0  # who waits holds nothing of the database
            await filled.pool.execute(
                "SELECT bigbrotr.note_changes(p_relay_ids =>"
                " ARRAY(SELECT max(id) FROM bigbrotr.relays), p_befores => '{up}', p_now => 7)"
            )
            assert await other.ids(1) == [8]
        await until(lambda: api.service.change_streams == 0, "the end of all")


async def test_a_beat_while_nothing_changes(
    dsn: str, filled: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "BEAT_S", 0.05)
    async with served(dsn) as api, following(api.url) as stream:
        assert await stream.block() == {"retry": "3000"}
        assert await stream.block() == {"": ""}
        await change(filled)
        assert await stream.ids(1) == [NUMBER + 1]


async def test_what_is_not_kept_any_more(dsn: str, filled: Brotr) -> None:
    await filled.pool.execute("UPDATE bigbrotr.changes SET noted_at = 1 WHERE id < 4")
    await filled.pool.execute("SELECT bigbrotr.prune_changes(p_before => 5)")
    async with served(dsn) as api:
        for last in ("1", "99"):  # the latter is of another log
            async with following(api.url, Last_Event_ID=last) as stream:
                assert await stream.next() == {"id": "3", "event": "reset", "data": "{}"}
                assert await stream.ids(3) == [4, 5, 6]
        async with following(api.url, Last_Event_ID="3") as stream:
            assert await stream.ids(3) == [4, 5, 6]


async def test_another_log_after_a_restore(dsn: str, filled: Brotr) -> None:
    """Who follows the one that is gone is told so, and goes on with the other."""
    async with served(dsn) as api, following(api.url, "?after=0") as stream:
        await stream.ids(NUMBER)
        await change(filled)
        await stream.ids(1)
        await filled.pool.execute("DELETE FROM bigbrotr.changes WHERE id > 3")
        await filled.pool.execute("UPDATE bigbrotr.changes_log SET last = 3")
        async with following(api.url) as new:
            assert await stream.next() == {}  # the end
            async with following(api.url, Last_Event_ID=stream.last) as again:
                assert (await again.next())["event"] == "reset"
                assert await again.ids(3) == [1, 2, 3]
                await change(filled)
                assert await again.ids(1) == await new.ids(1) == [4]


async def test_more_than_is_in_memory(
    dsn: str, filled: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is far behind reads from the database, and comes to the same."""
    monkeypatch.setattr(changes, "KEPT", 10)
    monkeypatch.setattr(changes, "PAGE", 7)
    async with served(dsn) as api, following(api.url) as quick:
        await change(filled, 40)
        assert await quick.ids(40) == list(range(7, 47))
        async with following(api.url, "?after=0") as slow:
            assert await slow.ids(46) == list(range(1, 47))
            await change(filled)
            assert await slow.ids(1) == await quick.ids(1) == [47]


async def test_too_many_are_refused(dsn: str, filled: Brotr) -> None:
    limits = ServeLimits(requests_per_s=0, change_streams=2)
    async with served(dsn, limits=limits) as api:
        async with following(api.url), following(api.url):
            reply = await api.get("changes", status=503, Accept="text/event-stream")
            assert reply.headers["Retry-After"] == "30"
            await api.get("changes")  # pages are no streams
        await until(lambda: api.service.change_streams == 0, "the end of both")
        async with following(api.url, "?after=0") as stream:
            assert await stream.ids(1) == [1]


async def test_who_does_not_read_is_cut(
    dsn: str, filled: Brotr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "STALL_S", 0.3)
    await change(filled, 200, reason="x" * 100_000)
    async with served(dsn) as api:
        with await slow_reader(api.url, "text/event-stream", "changes?after=0"):
            await until(lambda: api.service.change_streams == 1, "the stream")
            async with following(api.url) as other:  # nobody else notices
                await change(filled)
                assert await other.ids(1) == [NUMBER + 201]
                await until(lambda: api.service.change_streams == 1, "the cut")


async def test_a_look_that_fails(dsn: str, filled: Brotr, caplog: pytest.LogCaptureFixture) -> None:
    """Streams stay, and go on with what has changed meanwhile."""
    async with served(dsn) as api, following(api.url) as stream:
        await filled.pool.execute("ALTER TABLE bigbrotr.changes RENAME TO elsewhere")
        await until(lambda: "defect" in caplog.text, "the failure")
        await filled.pool.execute("ALTER TABLE bigbrotr.elsewhere RENAME TO changes")
        await change(filled)
        assert await stream.ids(1) == [NUMBER + 1]


async def test_a_server_that_stops_and_one_that_is_killed(
    dsn: str, filled: Brotr, tmp_path: Path
) -> None:
    """A client that goes on behind the last that it has seen gets each change once."""
    listen = f"127.0.0.1:{free_port()}"
    seen: list[int] = []
    last = "0"
    for number, kills in enumerate((False, True, True)):
        async with serving(tmp_path / str(number), dsn, listen=listen) as (running, url):
            async with following(url, Last_Event_ID=last) as stream:
                # Nobody notices one who does not read.
                lazy = await slow_reader(url, "text/event-stream", "changes?after=0")
                seen += await stream.ids(NUMBER if not number else 3)
                await change(filled)
                seen += await stream.ids(1)
                if kills:
                    running.process.kill()
                    with pytest.raises(aiohttp.ClientError):
                        await stream.next()
                else:
                    running.process.send_signal(signal.SIGTERM)
                    assert await stream.next() == {}  # it ends well
                last = stream.last
                lazy.close()
            await running.process.wait()
        await change(filled, 3)
    async with (
        serving(tmp_path / "last", dsn, listen=listen) as (_, url),
        following(url, Last_Event_ID=last) as stream,
    ):
        seen += await stream.ids(3)
    assert seen == list(range(1, NUMBER + 13))


def test_numbers_of_events() -> None:
    assert changes.number_in("12") == 12
    for text in ("", "-1", "1.5", "x", "9" * 40, "\u0661"):
        with pytest.raises(RefusedError):
            changes.number_in(text)
