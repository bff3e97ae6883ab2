"""The relay's own document (NIP-11), who may read it, and who has to say who he is (NIP-42)."""

import json
import time
from typing import Any

import pytest

from bigbrotr import __version__
from bigbrotr.config.settings import Profile, ServeRelaySettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.nip11 import Nip11
from bigbrotr.nostr.auth import CLIENT_AUTH
from tests.kit.events import make_event, pubkey, verified
from tests.kit.served import served
from tests.serve.relay.client import OPEN, Client, Place, client_of, relay_of, store

KIND = {"Accept": "application/nostr+json"}


async def document(place: Place, path: str = "/") -> dict[str, Any]:
    async with place.server.client.get(place.http + path, headers=KIND) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == KIND["Accept"]
        found: dict[str, Any] = json.loads(await response.read())
        return found


async def test_the_document_says_what_holds(dsn: str) -> None:
    settings: dict[str, Any] = {
        "name": "ours",
        "description": "All of it.",
        "contact": "mailto:me@example.com",
        "pubkey": pubkey(1),
        "own_pubkey": pubkey(2),
        "icon": "https://example.com/icon.png",
    }
    bounds = {"max_limit": 300, "max_message_bytes": 5000}
    async with relay_of(dsn, bounds=bounds, **settings) as place:
        found = await document(place)
        assert found == {
            "name": "ours",
            "description": "All of it.",
            "contact": "mailto:me@example.com",
            "pubkey": pubkey(1),
            "self": pubkey(2),
            "icon": "https://example.com/icon.png",
            "supported_nips": [1, 11, 45, 67, 77],
            "software": "bigbrotr",
            "version": __version__,
            "limitation": {
                "max_message_length": 5000,
                "max_subscriptions": 100,
                "max_filters": 20,
                "max_limit": 300,
                "default_limit": 300,
                "max_subid_length": 64,
                "auth_required": False,
                "payment_required": False,
                "restricted_writes": True,
            },
        }
        parsed = Nip11.parse(json.dumps(found).encode())
        assert not parsed.dropped
        assert (await document(place, "/archive"))["description"].startswith("All of it. ")


@pytest.mark.parametrize("profile", [Profile.LITE])
async def test_an_archive_without_contents_claims_less(dsn: str) -> None:
    async with relay_of(dsn) as place:
        assert (await document(place))["supported_nips"] == [11, 45, 77]


async def test_what_is_no_client_of_a_relay_gets_what_it_got(dsn: str) -> None:
    async with relay_of(dsn, archive=False) as place:
        for headers in ({}, {"Accept": "text/html"}, {"Accept": "application/json"}):
            async with place.server.client.get(
                f"{place.http}/", headers=headers, allow_redirects=False
            ) as response:
                assert response.status == 200
                assert response.headers["Content-Type"].startswith("text/html")
        async with place.server.client.get(f"{place.http}/archive", headers=KIND) as response:
            assert response.status == 404
        # An upgrade that is none.
        bad = {"Upgrade": "websocket", "Connection": "Upgrade"}
        async with place.server.client.get(f"{place.http}/", headers=bad) as response:
            assert response.status == 400
            assert (await response.json())["type"].endswith("#problem-bad-request")


async def test_it_is_on_by_default_without_its_archive_and_can_be_switched_off(dsn: str) -> None:
    async with served(dsn, limits=OPEN) as server:
        root = server.url.removesuffix("/api/v1")
        async with server.client.get(root, headers=KIND) as response:
            assert response.headers["Content-Type"] == KIND["Accept"]
        async with server.client.get(f"{root}/archive", headers=KIND) as response:
            assert response.status == 404
    async with served(dsn, limits=OPEN, relay=ServeRelaySettings(enabled=False)) as server:
        root = server.url.removesuffix("/api/v1")
        async with server.client.get(root, headers=KIND) as response:
            assert response.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize(
    ("origin", "public_url", "status"),
    [
        ("https://stranger.example", None, 403),
        ("https://stranger.example", "https://archive.example", 101),
        (None, None, 101),
    ],
)
async def test_pages_of_others_read_what_is_public(
    dsn: str, origin: str | None, public_url: str | None, status: int
) -> None:
    async with relay_of(dsn, serve={"public_url": public_url}) as place:
        headers = {"Origin": origin} if origin else {}
        async with place.server.client.get(f"{place.http}/", headers=KIND | headers) as response:
            assert (response.status == 200) is (status == 101)
            if origin and public_url:
                assert response.headers["Access-Control-Allow-Origin"] == "*"
                assert response.headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS"
        upgrade = headers | {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        async with place.server.client.get(f"{place.http}/", headers=upgrade) as response:
            assert response.status == status


async def challenge_of(client: Client) -> str:
    kind, challenge = await client.hear()
    assert kind == "AUTH"
    assert isinstance(challenge, str)
    return challenge


def answer(challenge: str, relay: str, key: int = 1, **changes: Any) -> dict[str, Any]:
    tags = [["relay", relay], ["challenge", challenge]]
    return make_event(
        changes.get("created_at", int(time.time())), changes.get("kind", CLIENT_AUTH), tags, key=key
    )


async def test_who_has_to_authenticate(brotr: Brotr, dsn: str) -> None:
    await store(brotr, [verified()])
    async with relay_of(dsn, auth=True, readers=(pubkey(1),)) as place:
        assert (await document(place))["supported_nips"] == [1, 11, 42, 45, 67, 77]
        assert (await document(place))["limitation"]["auth_required"] is True
        async with client_of(place.url) as client:
            challenge = await challenge_of(client)
            for frame in (["REQ", "a", {}], ["COUNT", "a", {}], ["NEG-OPEN", "a", {}, "61"]):
                assert (await client.ask(*frame))[2].startswith("auth-required: ")
            tampered = answer(challenge, place.url) | {"content": "x"}
            for wrong, words in (
                (answer("another", place.url), "another challenge"),
                (answer(challenge, "wss://else.example"), "another relay"),
                (answer(challenge, place.url, created_at=5), "not now"),
                (answer(challenge, place.url, kind=1), "kind is not"),
                (tampered, "bad id"),
                ({}, "malformed"),
                (5, "malformed"),
            ):
                kind, _, is_right, reason = await client.ask("AUTH", wrong)
                assert (kind, is_right) == ("OK", False)
                assert reason.startswith("invalid: ")
                assert words in reason
            stranger = answer(challenge, place.url, key=2)
            kind, event_id, is_right, reason = await client.ask("AUTH", stranger)
            assert (event_id, is_right, reason[:11]) == (stranger["id"], False, "restricted:")
            assert (await client.ask("REQ", "a", {}))[2].startswith("restricted: ")
            ours = answer(challenge, place.url + "/")
            assert await client.ask("AUTH", ours) == ["OK", ours["id"], True, ""]
            assert len((await client.stored({}))[0]) == 1
        async with client_of(place.url) as client:  # another challenge
            assert await challenge_of(client) != challenge
            assert (await client.ask("AUTH", ours))[2] is False


async def test_nobody_has_to_otherwise(dsn: str) -> None:
    async with relay_of(dsn) as place, client_of(place.url) as client:
        assert (await client.ask("AUTH", answer("x", place.url)))[0] == "NOTICE"
