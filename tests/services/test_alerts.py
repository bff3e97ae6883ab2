"""Alerts: what has changed and lasted is told once, in order, to real servers and relays."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import nostr_sdk
import pytest
from aiohttp import web

from bigbrotr.config.settings import AlertsSettings, AlertTarget, Config, Link, Networks
from bigbrotr.config.toml import decode
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.errors import ConfigError
from bigbrotr.models.keys import Keys
from bigbrotr.models.relay import Relay
from bigbrotr.services.alerts import Alerts
from bigbrotr.services.publisher import Publisher
from bigbrotr.supervisor import choose, is_unheard
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay
from tests.services.monitor.cycle import SECRET

RELAY = "wss://relay.example.com"
OTHER = "wss://other.example.com"
READER = Keys("22" * 32)
SECRET_PATH = "T0/very-secret"
# Nothing on loopback is a relay for us, and yet a webhook may be there.
CLOSED = Networks(local=Link(enabled=False))


class Webhook:
    """A server that notes what it is sent; `status` is what it answers."""

    def __init__(self) -> None:
        self.status = 200
        self.seen: list[tuple[dict[str, str], str]] = []
        self.port = 0
        self.begun = anyio.Event()  # a request is there...
        self.goes_on = anyio.Event()  # ...and is answered then
        self.goes_on.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{SECRET_PATH}"

    async def answer(self, request: web.Request) -> web.Response:
        assert request.method == "POST"
        assert request.path == f"/{SECRET_PATH}"
        self.seen.append((dict(request.headers), await request.text()))
        self.begun.set()
        await self.goes_on.wait()
        return web.Response(status=self.status, text="thanks")

    @property
    def changes(self) -> list[tuple[str, str]]:
        """Of the form json."""
        told = [json.loads(body) for _, body in self.seen]
        return [(each["change"], each["relay"]) for each in told]


@asynccontextmanager
async def listening() -> AsyncIterator[Webhook]:
    hook = Webhook()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", hook.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hook.port = runner.addresses[0][1]
    try:
        yield hook
    finally:
        await runner.cleanup()


@pytest.fixture
async def hook(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Webhook]:
    async with listening() as made:
        monkeypatch.setenv("HOOK", made.url)
        yield made


def settings(form: str = "json", **more: Any) -> AlertsSettings:
    own = {key: more.pop(key) for key in list(more) if key in ("watch", "changes")}
    target = AlertTarget(
        form=form,  # type: ignore[arg-type]
        url_from="HOOK",
        **({"watch": (RELAY, OTHER)} | own),
    )
    return AlertsSettings(
        enabled=True, to={"ops": target}, **({"checks": 1, "after_s": 0.0} | more)
    )


def service(brotr: Brotr, wanted: AlertsSettings, name: str = "test") -> Alerts:
    return Alerts(brotr, wanted, Context(Config(networks=CLOSED), None, name))


async def cycle(brotr: Brotr, wanted: AlertsSettings, name: str = "test") -> None:
    """A process that starts, looks once, and ends."""
    async with service(brotr, wanted, name) as alerts:
        await alerts.run()


async def checked(
    brotr: Brotr, url: str, state: str, *, times: int = 1, ago_s: int = 0, detail: str = ""
) -> None:
    """The monitor has found a relay in a state, so often in a row, since so long."""
    await brotr.insert_relays([Relay(url)])
    now = int(time.time())
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.checks (relay_id, due_at, state, since, outcome, detail)"
        " SELECT r.id, 0, $2::text, $3, $2, $4 FROM bigbrotr.relays r WHERE r.url = $1"
        " ON CONFLICT (relay_id) DO UPDATE SET state = EXCLUDED.state, since = EXCLUDED.since,"
        " outcome = EXCLUDED.outcome, detail = EXCLUDED.detail",
        url,
        state,
        now - ago_s,
        detail,
    )
    await brotr.pool.execute(
        "INSERT INTO bigbrotr.rtts (relay_id, holds_s, checked_at)"
        " SELECT r.id, 60, $2::bigint + n FROM bigbrotr.relays r, generate_series(0, $3 - 1) AS n"
        " WHERE r.url = $1 ON CONFLICT DO NOTHING",
        url,
        now - ago_s,
        times,
    )


async def left(brotr: Brotr) -> int:
    found: int = await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.alerts")
    return found


async def due(brotr: Brotr) -> None:
    await brotr.pool.execute("UPDATE bigbrotr.alerts SET due_at = 0")


async def test_each_change_is_told_once(brotr: Brotr, hook: Webhook) -> None:
    """…and not what a relay is when it is seen first; a restart changes nothing."""
    wanted = settings()
    await checked(brotr, RELAY, "up")
    await checked(brotr, OTHER, "down")
    await checked(brotr, "wss://strange.example.com", "up")
    for _ in range(2):
        await cycle(brotr, wanted)
    assert hook.seen == []
    await checked(brotr, RELAY, "down", ago_s=5, detail="nobody \x1b[31m\u202e listens")
    await checked(brotr, "wss://strange.example.com", "down")
    for _ in range(2):
        await cycle(brotr, wanted)
    await checked(brotr, OTHER, "up")
    for _ in range(2):
        await cycle(brotr, wanted)
    assert hook.changes == [("down", RELAY), ("up", OTHER)]
    headers, body = hook.seen[0]
    told = json.loads(body)
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == told["id"]
    assert told["reason"] == "down: nobody \ufffd[31m\ufffd listens"
    assert told["since"] <= told["noted_at"] <= time.time()
    assert told["title"] == "relay.example.com is down"
    assert await left(brotr) == 0


async def test_what_does_not_last_is_not_told(brotr: Brotr, hook: Webhook) -> None:
    wanted = settings(checks=3, after_s=600.0)
    await checked(brotr, RELAY, "up", times=9, ago_s=9000)
    await cycle(brotr, wanted)
    await checked(brotr, RELAY, "down", times=9, ago_s=60)  # often, and not long
    await cycle(brotr, wanted)
    await checked(brotr, OTHER, "up", times=9, ago_s=9000)
    await cycle(brotr, wanted)
    await checked(brotr, OTHER, "down", times=2, ago_s=1200)  # long, and not often
    await cycle(brotr, wanted)
    await checked(brotr, RELAY, "up", ago_s=10)  # it flaps
    await cycle(brotr, wanted)
    assert hook.seen == []
    await checked(brotr, OTHER, "down", times=3, ago_s=1200)
    await cycle(brotr, wanted)
    assert hook.changes == [("down", OTHER)]


async def test_a_certificate_is_told_once(brotr: Brotr, hook: Webhook) -> None:
    now = int(time.time())

    async def shows(not_after: object) -> None:
        await brotr.insert_relays([Relay(RELAY)])
        await brotr.pool.execute(
            "WITH made AS (INSERT INTO bigbrotr.metadata (id, data)"
            "    VALUES (sha256($1::text::bytea), $1::text::jsonb) RETURNING id)"
            " INSERT INTO bigbrotr.snapshots_latest (relay_id, type, snapshot_at, metadata_id)"
            " SELECT r.id, 'nip66_ssl', 1, made.id FROM bigbrotr.relays r, made"
            " ON CONFLICT (relay_id, type) DO UPDATE SET metadata_id = EXCLUDED.metadata_id",
            json.dumps({"not_after": not_after}),
        )

    wanted = settings(certificate_s=86_400.0)
    for not_after in (now + 90_000, "soon", None):
        await shows(not_after)
        await cycle(brotr, wanted)
    assert hook.seen == []
    for not_after in (now + 80_000, now + 85_000):
        await shows(not_after)
        for _ in range(2):
            await cycle(brotr, wanted)
    assert [json.loads(body)["expires"] for _, body in hook.seen] == [now + 80_000, now + 85_000]
    assert hook.changes == [("certificate", RELAY)] * 2
    await shows(now + 70_000)
    await cycle(brotr, settings(certificate_s=86_400.0, changes=("down",)))
    assert len(hook.seen) == 2


async def test_what_fails_is_told_later_in_order_and_not_for_ever(
    brotr: Brotr, hook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    """The URL, which is a secret, is nowhere in the log."""
    wanted = settings(max_attempts=3)
    await checked(brotr, RELAY, "up")
    await cycle(brotr, wanted)
    hook.status = 500
    await checked(brotr, RELAY, "down")
    await cycle(brotr, wanted)
    assert len(hook.seen) == 1
    await checked(brotr, RELAY, "up")
    await cycle(brotr, wanted)
    assert len(hook.seen) == 1  # the later one waits for the first, and that for its time
    assert await brotr.pool.fetchval("SELECT max(due_at) FROM bigbrotr.alerts") > time.time() + 30
    hook.status = 204
    await due(brotr)
    await cycle(brotr, wanted)
    assert hook.changes == [("down", RELAY), ("down", RELAY), ("up", RELAY)]
    assert hook.seen[0][1] == hook.seen[1][1]
    await checked(brotr, RELAY, "down")
    hook.status = 404
    for tries in range(3):
        assert await left(brotr) == min(tries, 1)
        await cycle(brotr, wanted)
        await due(brotr)
    assert await left(brotr) == 0
    assert len(hook.seen) == 6
    assert "status 404" in caplog.text
    assert "given up" in caplog.text
    assert SECRET_PATH not in caplog.text


async def test_an_unreachable_webhook(
    brotr: Brotr, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOOK", f"http://127.0.0.1:{free_port()}/{SECRET_PATH}")
    await checked(brotr, RELAY, "up")
    await cycle(brotr, settings())
    assert f"nothing is told of it yet relay={OTHER}" in caplog.text
    await checked(brotr, RELAY, "down")
    await cycle(brotr, settings())
    assert await left(brotr) == 1
    assert "refused" in caplog.text
    assert SECRET_PATH not in caplog.text


async def test_several_supervisors_tell_once(brotr: Brotr, hook: Webhook) -> None:
    wanted = settings()
    for url in (RELAY, OTHER):
        await checked(brotr, url, "up")
    await cycle(brotr, wanted)
    for url in (RELAY, OTHER):
        await checked(brotr, url, "down")
    async with anyio.create_task_group() as group:
        for name in ("anna", "bert", "carl", "dora"):
            group.start_soon(cycle, brotr, wanted, name)
    await cycle(brotr, wanted)
    assert sorted(hook.changes) == [("down", OTHER), ("down", RELAY)]


async def test_a_killed_process_loses_nothing(brotr: Brotr, hook: Webhook) -> None:
    """What it was about to tell is told by the next, with the same id; others wait till then."""
    wanted = settings()
    await checked(brotr, RELAY, "up")
    await cycle(brotr, wanted)
    await checked(brotr, RELAY, "down")
    hook.goes_on = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(cycle, brotr, wanted, "anna")
        await hook.begun.wait()
        group.cancel_scope.cancel()  # as death: nothing is recorded
    hook.goes_on.set()
    assert await left(brotr) == 1
    await cycle(brotr, wanted, "bert")  # it may still be at it
    assert len(hook.seen) == 1
    await cycle(brotr, wanted, "anna")
    assert [body for _, body in hook.seen] == [hook.seen[0][1]] * 2
    assert await left(brotr) == 0


@pytest.mark.parametrize("form", ["slack", "ntfy"])
async def test_forms(brotr: Brotr, hook: Webhook, form: str) -> None:
    wanted = settings(form)
    await checked(brotr, RELAY, "up")
    await cycle(brotr, wanted)
    await checked(brotr, RELAY, "down", detail="<!channel> & co\r\nX-Evil: 1")
    await cycle(brotr, wanted)
    ((headers, body),) = hook.seen
    assert "X-Evil" not in headers
    if form == "slack":
        text = json.loads(body)["text"]
        title, said = text.split("\n")
        assert "&lt;!channel&gt; &amp; co" in said
    else:
        title, said = headers["Title"], body
        assert headers["Priority"] == "high"
        assert headers["Tags"] == "red_circle"
        assert "\n" not in body
    assert title == "relay.example.com is down"
    assert said.startswith(f"{RELAY} is down since 20")


@pytest.mark.usefixtures("private_key")
async def test_a_message_is_told_once_by_way_of_the_outbox(brotr: Brotr) -> None:
    """…to each relay of its reader, who alone can open it and sees who has signed it."""
    async with ScriptedRelay() as inbox, ScriptedRelay() as second:
        target = AlertTarget(
            form="nostr", npub=READER.npub, relays=(inbox.url, second.url), watch=(RELAY,)
        )
        wanted = AlertsSettings(enabled=True, checks=1, after_s=0.0, to={"me": target})
        await checked(brotr, RELAY, "up")
        await cycle(brotr, wanted)
        await checked(brotr, RELAY, "down", detail="no answer")
        for _ in range(2):
            await cycle(brotr, wanted)
        assert await left(brotr) == 0
        networks = Networks(clearnet=Link(enabled=False), local=Link(timeout_s=5.0))
        async with Publisher(brotr, context=Context(Config(networks=networks))) as publisher:
            await publisher.run()
            await publisher.run()
        (wrap,) = inbox.events
        assert [each["id"] for each in second.events] == [wrap["id"]]
    assert wrap["kind"] == 1059
    assert RELAY not in json.dumps(wrap)
    gift = nostr_sdk.UnwrappedGift.from_gift_wrap(
        nostr_sdk.Keys.parse("22" * 32), nostr_sdk.Event.from_json(json.dumps(wrap))
    )
    assert gift.sender().to_hex() == Keys(SECRET).public_key
    rumor = gift.rumor()
    assert rumor.kind().as_u16() == 14
    assert rumor.content().startswith(f"relay.example.com is down\n{RELAY} is down since 20")
    assert rumor.content().endswith("(down: no answer).")


def test_what_is_wrong_is_said_without_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(alerts=settings())
    monkeypatch.delenv("HOOK", raising=False)
    with pytest.raises(ConfigError, match="set HOOK to the URL of the webhook, or HOOK_FILE"):
        choose(config, ["alerts"])
    for url in ("ftp://x/s3cr3t", "s3cr3t", "https://me:s3cr3t@x.example/", "http://[s3cr3t"):
        monkeypatch.setenv("HOOK", url)
        with pytest.raises(ConfigError, match="no URL of a webhook") as found:
            choose(config, ["alerts"])
        assert "s3cr3t" not in str(found.value)
    monkeypatch.setenv("HOOK", "https://hooks.example.com/s3cr3t")
    assert choose(config, ["alerts"]) == ["alerts"]
    monkeypatch.delenv("PRIVATE_KEY", raising=False)
    target = AlertTarget(form="nostr", npub=READER.npub, relays=(RELAY,), watch=(RELAY,))
    message = Config(alerts=AlertsSettings(enabled=True, to={"me": target}))
    with pytest.raises(ConfigError, match="PRIVATE_KEY: set it"):
        choose(message, ["alerts"])
    assert is_unheard(message, ["alerts"])
    assert not is_unheard(message, ["alerts", "publisher"])


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"form": "json", "watch": [RELAY]}, "url_from is the NAME"),
        ({"form": "json", "watch": [RELAY], "url_from": "https://x/secret"}, "url_from is the"),
        ({"form": "json", "watch": [], "url_from": "HOOK"}, "watch"),
        ({"form": "json", "watch": ["x y"], "url_from": "HOOK"}, "watch: 'x y'"),
        ({"form": "nostr", "watch": [RELAY]}, "needs npub and relays"),
        ({"form": "nostr", "watch": [RELAY], "npub": "npub1x", "relays": [RELAY]}, "npub: "),
        ({"form": "smoke", "watch": [RELAY]}, "expected one of json, slack, ntfy, nostr"),
    ],
)
def test_settings_that_are_wrong(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as found:
        decode({"alerts": {"to": {"x": table}}}, Config, source="file")
    assert words in str(found.value)
    assert "secret" not in str(found.value).replace("which is a secret", "")
