"""Says of archived events whether they may be sent to relays: after what the policy has noted, and
after what they say themselves."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from bigbrotr.config.settings import Config
from bigbrotr.core.brotr import Brotr
from bigbrotr.models.coverage import Span
from bigbrotr.models.event import MAX_CREATED_AT, decode_tags
from bigbrotr.models.policy import View, urls_of
from bigbrotr.models.rescue import Left, Sendable, embedded_in, left_of
from bigbrotr.reads.events import StoredEvent

Judgement: TypeAlias = Sendable | Left
EVERYTHING = Span(0, MAX_CREATED_AT)


def nothing(_: int) -> None:
    """Says nothing of how far it is."""


async def settle_policy(
    brotr: Brotr, config: Config, on_judged: Callable[[int], None] = nothing
) -> None:
    """Judges what waits to be judged, as the service policy does: what was deleted, say, by an
    event that has just come is sent no more. With others that judge, one waits for the other.
    `on_judged` is told how many events were judged."""
    urls = sorted(urls_of(config.serve.public_url))
    policy = config.policy
    await brotr.begin_policy(
        urls, policy.erases, policy.hides(View.CURRENT), policy.hides(View.ARCHIVE)
    )
    judged = 0
    for step in (brotr.judge_arrivals, brotr.judge_review):
        while not (done := await step(urls)).is_done:
            judged += done.events
            on_judged(judged)


async def judge(brotr: Brotr, events: Sequence[StoredEvent], now: int) -> dict[bytes, Judgement]:
    """What may be sent of some archived events, by id, and why not the others."""
    events = sorted(events, key=lambda event: (event.created_at, event.id))
    whys = await brotr.whys_of([(event.created_at, event.id) for event in events])
    found: dict[bytes, Judgement] = {}
    embedded: dict[bytes, list[bytes]] = {}  # by what is embedded: the reposts
    for event, noted in zip(events, whys, strict=True):
        if event.tags is None or event.content is None or event.sig is None:
            found[event.id] = Left.NOT_KEPT
            continue
        tags = decode_tags(event.tags)
        left = left_of(
            event.pubkey, event.created_at, event.kind, tags, noted.why, noted.expires_at, now
        )
        if left is None:
            inner = embedded_in(event.kind, event.content, now)
            if inner.is_forbidden:
                left = Left.EMBEDS
            for key in inner.ids:
                embedded.setdefault(key, []).append(event.id)
        found[event.id] = left or Sendable(
            event.id, event.created_at, len(tags), len(event.content), event.to_json()
        )
    for key in await _withheld(brotr, list(embedded), now):
        for event_id in embedded[key]:
            if isinstance(found[event_id], Sendable):
                found[event_id] = Left.EMBEDS
    return found


async def _withheld(brotr: Brotr, ids: Sequence[bytes], now: int) -> list[bytes]:
    """Those of the ids whose events are archived and not sent themselves. That there is a newer
    version of an event is no reason against who has quoted it."""
    if not ids:
        return []
    times = await brotr.find_events(ids, EVERYTHING)
    keys = sorted((at, each) for at, each in zip(times, ids, strict=True) if at is not None)
    whys = await brotr.whys_of(keys)
    withheld = []
    for (_, event_id), noted in zip(keys, whys, strict=True):
        left = left_of(b"", 0, 1, (), noted.why, noted.expires_at, now)
        if left not in (None, Left.SUPERSEDED):
            withheld.append(event_id)
    return withheld
