"""What a relay claims beside what is seen of it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bigbrotr.models.nip11 import Nip11
from bigbrotr.net.timed_socket import keep_stamps
from bigbrotr.nostr.auth import Throwaway
from bigbrotr.services.monitor.claims import compare
from bigbrotr.services.monitor.probe import ProbeConnection
from bigbrotr.services.monitor.trial import make_trial
from tests.kit.scripted import ScriptedRelay
from tests.services.monitor.contact import EVENT, answering, contact


@pytest.fixture(autouse=True)
def _stamps() -> Iterator[None]:
    with keep_stamps():
        yield


def document(*nips: int, **limitation: Any) -> Nip11:
    return Nip11.parse(json.dumps({"supported_nips": nips, "limitation": limitation}).encode())


async def test_claims_of_a_relay_that_does_nothing_of_it() -> None:
    claimed = document(1, 42, 45, 50, 67, 70, 77, auth_required=True, max_limit=5000)
    async with ScriptedRelay([EVENT]) as relay, await contact(relay.url) as met:
        await met.read(1.0)
        wrote = await met.write(make_trial(Throwaway(), 0), 1.0)
        protected = make_trial(Throwaway(), 0, is_protected=True)
        claims = await compare(met, claimed, 1.0, protected=protected, wrote=wrote)
    assert claims == {
        "nips": {
            "42": {"claimed": True, "seen": None},
            "45": {"claimed": True, "seen": False},
            "50": {"claimed": True, "seen": False},
            "67": {"claimed": True, "seen": None},
            "70": {"claimed": True, "seen": False},
            "77": {"claimed": True, "seen": False},
        },
        "auth": {"claimed": True, "seen": False},
        "payment": {"claimed": None, "seen": False},
        "max_limit": {"claimed": 5000, "seen": None},
    }


async def test_what_is_done_without_a_claim() -> None:
    def reply(frame: list[Any]) -> list[list[Any]]:
        verb, *rest = frame
        if verb == "COUNT":
            return [["COUNT", rest[0], {"count": 0}]]
        if verb == "NEG-OPEN":
            return [["NEG-ERR", rest[0], "blocked: too many"]]
        if verb == "EVENT":
            is_free = not rest[0]["tags"]
            return [["OK", rest[0]["id"], is_free, "" if is_free else "auth-required: protected"]]
        if verb == "REQ":
            found = [] if "search" in rest[1] else [["EVENT", rest[0], EVENT]]
            return [["AUTH", "x"], *found, ["EOSE", rest[0], ["finish"]]]
        return []

    async def ask(met: ProbeConnection) -> dict[str, Any]:
        await met.read(1.0)
        wrote = await met.write(make_trial(Throwaway(), 0), 1.0)
        protected = make_trial(Throwaway(), 0, is_protected=True)
        return await compare(met, None, 1.0, protected=protected, wrote=wrote)

    claims = await answering(reply, ask)
    assert set(claims["nips"]) == {"42", "45", "50", "67", "70", "77"}
    for nip in claims["nips"].values():
        assert nip == {"claimed": None, "seen": True}


async def test_a_document_in_another_character_set_is_said_to_be_so() -> None:
    odd = Nip11.parse('{"name": "Café"}'.encode("latin-1"))
    claims = await answering(lambda _: [], lambda met: compare(met, odd, 0.05))
    assert claims["charset"] == "cp1252"


async def test_silence_says_nothing() -> None:
    claims = await answering(lambda _: [], lambda met: compare(met, document(), 0.05))
    assert {nip["seen"] for nip in claims["nips"].values()} == {None}
    assert claims["auth"] == {"claimed": None, "seen": None}


async def test_payment_is_seen_where_it_is_asked_for() -> None:
    async def ask(met: ProbeConnection) -> dict[str, Any]:
        wrote = await met.write(make_trial(Throwaway(), 0), 1.0)
        return await compare(met, document(payment_required=False), 0.05, wrote=wrote)

    def reply(frame: list[Any]) -> list[list[Any]]:
        if frame[0] == "EVENT":
            return [["OK", frame[1]["id"], False, "restricted: please pay at https://pay.example"]]
        return []

    assert (await answering(reply, ask))["payment"] == {"claimed": False, "seen": True}
