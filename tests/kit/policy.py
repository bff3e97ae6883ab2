"""Has an archive judged; and a dumb recount of what is hidden, to compare with."""

from collections.abc import Collection, Iterable

from bigbrotr.config.settings import Config, PolicySettings, ServeSettings
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.event import Event
from bigbrotr.models.policy import Reason
from bigbrotr.services.policy import Policy

Marks = dict[bytes, tuple[int, int | None]]  # by id: reasons, and when it expires


async def judge(
    brotr: Brotr, settings: PolicySettings | None = None, public_url: str | None = None
) -> None:
    """Judges all that is due."""
    config = Config(policy=settings or PolicySettings(), serve=ServeSettings(public_url=public_url))
    async with Policy(brotr, context=Context(config)) as policy:
        await policy.run()
        await policy.run()
    assert not await brotr.policy_is_due(0)


async def hidden(brotr: Brotr) -> Marks:
    """What is noted."""
    rows = await brotr.pool.fetch("SELECT id, why, expires_at FROM bigbrotr.hidden")
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: (row["why"], row["expires_at"]) for row in rows}


def recount(
    archived: Collection[Event], ever: Iterable[Event], down: Collection[bytes] = ()
) -> Marks:
    """What is to be noted of the archived events, where all of `ever` were seen; `down`: ids and
    public keys that are taken down."""
    requests = [event for event in ever if event.kind in (5, 62)]
    marks: Marks = {}
    for event in archived:
        why = 0
        address = _address(event)
        if address is not None and any(
            _address(other) == address
            and (-other.created_at, other.id) < (-event.created_at, event.id)
            for other in archived
        ):
            why |= Reason.SUPERSEDED
        if any(deletes(request, event) for request in requests):
            why |= Reason.DELETED
        if any(makes_vanish(request, event) for request in requests):
            why |= Reason.VANISHED
        if ("-",) in event.tags:
            why |= Reason.PROTECTED
        if 20_000 <= event.kind < 30_000:
            why |= Reason.EPHEMERAL
        if event.id in down or event.pubkey in down:
            why |= Reason.TAKEN_DOWN
        ends = [int(tag[1]) for tag in event.tags if tag[0] == "expiration"]
        expires_at = ends[0] if ends else None
        if why or expires_at is not None:
            marks[event.id] = (int(why), expires_at)
    return marks


def _address(event: Event) -> str | None:
    """As an `a` tag names it."""
    if event.kind in (0, 3) or 10_000 <= event.kind < 20_000:
        return f"{event.kind}:{event.pubkey.hex()}:"
    if 30_000 <= event.kind < 40_000:
        names = [tag[1] for tag in event.tags if tag[0] == "d"] or [""]
        return f"{event.kind}:{event.pubkey.hex()}:{names[0]}"
    return None


def deletes(request: Event, event: Event) -> bool:
    """Whether a request for deletion is about an event."""
    if request.kind != 5 or event.kind in (5, 62):
        return False
    is_its_own = request.pubkey == event.pubkey
    is_for_it = event.kind == 1059 and ("p", request.pubkey.hex()) in event.tags
    if ("e", event.id.hex()) in request.tags and (is_its_own or is_for_it):
        return True
    address = _address(event)
    is_named = address is not None and ("a", address) in request.tags
    return is_named and is_its_own and event.created_at <= request.created_at


def makes_vanish(request: Event, event: Event, relay: str = "ALL_RELAYS") -> bool:
    """Whether a request to vanish from all relays, or from one, is about an event."""
    if request.kind != 62 or event.kind == 62 or event.created_at > request.created_at:
        return False
    is_for_it = event.kind == 1059 and ("p", request.pubkey.hex()) in event.tags
    is_meant = ("relay", "ALL_RELAYS") in request.tags or ("relay", relay) in request.tags
    return is_meant and (request.pubkey == event.pubkey or is_for_it)
