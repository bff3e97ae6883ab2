"""What a relay claims beside what is seen of it, by questions that cost it next to nothing."""

import secrets
from typing import Any

import msgspec

from bigbrotr.models.check import Check, Failed, Measured
from bigbrotr.models.nip11 import Nip11
from bigbrotr.nostr import message
from bigbrotr.nostr.auth import SignedEvent
from bigbrotr.nostr.message import (
    Closed,
    Eose,
    EventMessage,
    Message,
    NegErr,
    NegMsg,
    Notice,
    Other,
)
from bigbrotr.nostr.session import is_refusal
from bigbrotr.services.monitor.probe import UNANSWERED, ProbeConnection

NOBODY = "0" * 63 + "1"  # a key that has written nothing
CHEAP = {"authors": [NOBODY], "kinds": [20166], "limit": 1}
# NIP-77: "I have none": the version, no upper bound, a list of no ids.
NEG_NOTHING = b"\x61\0\0\x02\0"


async def compare(
    contact: ProbeConnection,
    document: Nip11 | None,
    timeout_s: float,
    *,
    protected: SignedEvent | None = None,
    wrote: Check[float] | None = None,
) -> dict[str, Any]:
    """Each claim beside what was seen, None where that is not known; `timeout_s` a question.

    `protected`: an event that a relay with NIP-70 refuses; `wrote`: what became of one that it
    should have taken.
    """
    seen: dict[str, bool | None] = {
        "45": await _counts(contact, timeout_s),
        "50": await _searches(contact, timeout_s),
        "70": await _protects(contact, protected, wrote, timeout_s),
        "77": await _reconciles(contact, timeout_s),
        "67": True if contact.has_hints else None,  # to give no hint says nothing
    }
    needs_auth = contact.refusal.startswith(("auth-required:", "restricted:"))
    seen["42"] = True if contact.challenge is not None or needs_auth else None
    refused = wrote.detail.lower() if isinstance(wrote, Failed) else ""
    odd = {"charset": document.charset} if document and document.charset != "utf-8" else {}
    return {
        **odd,  # that of the document, which is to be in UTF-8
        "nips": {
            nip: _pair(document.claims(int(nip)) if document else None, was_seen)
            for nip, was_seen in sorted(seen.items())
        },
        "auth": _pair(
            document.requires("auth_required") if document else None,
            True if needs_auth else False if contact.is_read else None,
        ),
        "payment": _pair(
            document.requires("payment_required") if document else None,
            True if "pay" in refused else False if isinstance(wrote, Measured) else None,
        ),
        # Whether it clamps would cost as many events to see.
        "max_limit": _pair(document.limit("max_limit") if document else None, None),
    }


def _pair(claimed: bool | int | None, seen: bool | None) -> dict[str, bool | int | None]:
    return {"claimed": claimed, "seen": seen}


async def _counts(contact: ProbeConnection, timeout_s: float) -> bool | None:
    sub = contact.subscription()

    def answer(each: Message) -> Check[None] | None:
        match each:
            case Other("COUNT", [named, dict(found), *_]) if named == sub and "count" in found:
                return Measured(None)
            case Closed(named, _) if named == sub:
                return Failed("refused")
            case Notice(text) if is_refusal(text):
                return Failed("refused")
        return None

    frame = msgspec.json.encode(["COUNT", sub, CHEAP])
    return _is_seen(await contact.ask(frame, answer, timeout_s))


async def _searches(contact: ProbeConnection, timeout_s: float) -> bool | None:
    """Nobody has written the word that is looked for: who finds it does not search. That nothing is
    found says something where anything was found before."""
    sub = contact.subscription()

    def answer(each: Message) -> Check[None] | None:
        match each:
            case EventMessage(named) | Closed(named) if named == sub:
                return Failed("refused")
            case Eose(named) if named == sub:
                return Measured(None)
        return None

    wanted = {"kinds": [1], "search": secrets.token_hex(12), "limit": 1}
    check = await contact.ask(message.request(sub, wanted), answer, timeout_s)
    await contact.say(message.close(sub), timeout_s)
    return None if isinstance(check, Measured) and not contact.has_events else _is_seen(check)


async def _protects(
    contact: ProbeConnection,
    protected: SignedEvent | None,
    wrote: Check[float] | None,
    timeout_s: float,
) -> bool | None:
    if protected is None or not isinstance(wrote, Measured):
        return None  # a relay that takes nothing refuses that as well
    is_taken = _is_seen(await contact.write(protected, timeout_s))
    return None if is_taken is None else not is_taken


async def _reconciles(contact: ProbeConnection, timeout_s: float) -> bool | None:
    sub = contact.subscription()

    def answer(each: Message) -> Check[None] | None:
        match each:
            case NegMsg(named) | NegErr(named) if named == sub:
                return Measured(None)
            case Closed(named, _) if named == sub:
                return Failed("refused")
            case Notice(text) if is_refusal(text):
                return Failed("refused")
        return None

    frame = message.open_reconciliation(sub, CHEAP, NEG_NOTHING)
    check = await contact.ask(frame, answer, timeout_s)
    if isinstance(check, Measured):
        await contact.say(message.close_reconciliation(sub), timeout_s)
    return _is_seen(check)


def _is_seen(check: Check[float]) -> bool | None:
    """An answer in kind, another one, or none at all."""
    if isinstance(check, Measured):
        return True
    return False if isinstance(check, Failed) and check.reason not in UNANSWERED else None
