"""Management over HTTP (NIP-86): who may, what it does, and what is refused."""

import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from bigbrotr.config.settings import PolicySettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.keys import Keys
from bigbrotr.models.policy import Reason
from bigbrotr.serve.management import METHODS, UnauthorizedError, authorized, netloc_of
from tests.kit.archive import A, pairs
from tests.kit.events import NOW, pubkey, verified
from tests.kit.policy import hidden
from tests.kit.served import Served, served

ADMIN = Keys.generate()
STRANGER = Keys.generate()
KIND = "application/nostr+json+rpc"
EVENT = verified("spam", key=1)


def signed(
    body: bytes, url: str, keys: Keys = ADMIN, *, kind: int = 27_235, at: int = NOW, **tags: str
) -> str:
    """The header, signed by nostr-sdk."""
    said = {"u": url, "method": "POST", "payload": hashlib.sha256(body).hexdigest()} | tags
    event = keys.sign_event(kind, "", [[name, value] for name, value in said.items()], at)
    return "Nostr " + base64.b64encode(event.encode()).decode()


@pytest.fixture
async def api(dsn: str) -> AsyncIterator[Served]:
    async with served(dsn, policy=PolicySettings(admins=(ADMIN.npub,))) as api:
        yield api


def root(api: Served) -> str:
    return api.url.removesuffix("/api/v1")


async def call(
    api: Served, method: str, *params: Any, keys: Keys = ADMIN, status: int = 200
) -> Mapping[str, Any]:
    body = json.dumps({"method": method, "params": params}).encode()
    header = signed(body, root(api), keys, at=int(time.time()))
    headers = {"Content-Type": KIND, "Authorization": header}
    async with api.client.post(f"{root(api)}/", data=body, headers=headers) as response:
        assert response.status == status
        assert response.headers["Content-Type"] == KIND
        found: dict[str, Any] = await response.json(content_type=None)
    return found


async def test_events_and_authors_are_banned(brotr: Brotr, api: Served) -> None:
    await brotr.insert_events(pairs([EVENT], A))
    assert (await call(api, "supportedmethods"))["result"] == list(METHODS)
    for method, key, lists in (
        ("banevent", EVENT.id.hex(), "listbannedevents"),
        ("banpubkey", pubkey(1), "listbannedpubkeys"),
    ):
        assert await call(api, method, key, "a bot") == {"result": True}
        assert await hidden(brotr) == {EVENT.id: (Reason.TAKEN_DOWN, None)}
        name = "id" if method == "banevent" else "pubkey"
        assert await call(api, lists) == {"result": [{name: key, "reason": "a bot"}]}
        assert await call(api, f"un{method}", key) == {"result": True}
        assert await call(api, lists) == {"result": []}
        assert await hidden(brotr) == {}
    await call(api, "banevent", EVENT.id.hex())
    await call(api, "allowevent", EVENT.id.hex(), "sorry")
    log = await brotr.takedowns()
    assert {each.who for each in log} == {ADMIN.public_key}
    assert (log[0].why, log[0].undone_why) == ("no reason given", "sorry")


@pytest.mark.parametrize(
    ("method", "params", "words"),
    [
        ("blockip", ["127.0.0.1"], "no such method"),
        ("banevent", [], "takes 64 hex digits"),
        ("banevent", ["zz" * 32], "takes 64 hex digits"),
        ("banpubkey", [7], "takes 64 hex digits"),
        ("banpubkey", ["ab" * 32, 7], "the reason is a text"),
        ("banpubkey", ["ab" * 32, "x" * 1001], "the reason is a text"),
    ],
)
async def test_what_is_asked_wrongly(
    api: Served, method: str, params: list[Any], words: str
) -> None:
    assert words in (await call(api, method, *params))["error"]


async def test_who_may_not(brotr: Brotr, api: Served) -> None:
    answer = await call(api, "banevent", "ab" * 32, keys=STRANGER, status=401)
    assert "may not manage" in answer["error"]
    body = b'{"method":"listbannedevents"}'
    for headers in ({}, {"Authorization": "Basic eA=="}):
        async with api.client.post(
            root(api), data=body, headers={"Content-Type": KIND, **headers}
        ) as r:
            assert r.status == 401
    async with api.client.post(root(api), data=body) as response:
        assert response.status == 405
    assert await brotr.takedowns() == []


async def test_without_admins_nothing_can_be_changed(dsn: str) -> None:
    async with (
        served(dsn) as api,
        api.client.post(root(api), data=b"{}", headers={"Content-Type": KIND}) as response,
    ):
        assert response.status == 405


async def test_pages_of_other_sites_may_call_where_all_may_read(dsn: str) -> None:
    policy = PolicySettings(admins=(ADMIN.public_key,))
    async with served(dsn, policy=policy, public_url="https://archive.example.com") as api:
        headers = {"Host": "archive.example.com", "Origin": "https://tool.example.com"}
        async with api.client.options(root(api), headers=headers) as response:
            assert "POST" in response.headers["Access-Control-Allow-Methods"]
            assert "Authorization" in response.headers["Access-Control-Allow-Headers"]


BODY = b'{"method": "supportedmethods"}'
HOST = "archive.example.com"


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("", "sign the call"),
        ("Nostr", "sign the call"),
        ("Nostr !!!", "is no event"),
        ("Nostr e30=", "is no event"),
        (f"Nostr {'A' * 20_000}", "sign the call"),
        (signed(BODY, f"https://{HOST}", kind=1), "of kind 1"),
        (signed(BODY, f"https://{HOST}", at=NOW + 90), "more than 60 seconds"),
        (signed(BODY, f"https://{HOST}", at=NOW - 90), "more than 60 seconds"),
        (signed(BODY, f"https://{HOST}", method="GET"), "another method"),
        (signed(BODY, "https://other.example.com"), "another address"),
        (signed(BODY, f"https://{HOST}:8443"), "another address"),
        (signed(BODY, HOST), "another address"),
        (signed(b"", f"https://{HOST}"), "another body"),
        (signed(BODY, f"https://{HOST}", STRANGER), "may not manage"),
    ],
)
def test_what_is_not_authorized(header: str, words: str) -> None:
    with pytest.raises(UnauthorizedError, match=words):
        authorized(
            {"Authorization": header},
            BODY,
            hosts={HOST},
            admins={ADMIN.public_key},
            now=NOW,
        )


@pytest.mark.parametrize(
    "url",
    [f"https://{HOST}", f"wss://{HOST}/", f"WSS://{HOST.upper()}/archive", f"http://{HOST}/?x"],
)
def test_what_is_authorized(url: str) -> None:
    headers = {"Authorization": signed(BODY, url)}
    admins = {ADMIN.public_key}
    assert authorized(headers, BODY, hosts={HOST}, admins=admins, now=NOW) == ADMIN.public_key
    with pytest.raises(UnauthorizedError, match="16,384 bytes"):
        authorized(headers, bytes(16_385), hosts={HOST}, admins=admins, now=NOW)
    assert netloc_of("http://[") == ""
