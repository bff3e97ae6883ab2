"""The finder: relays that events name, lists on the web and monitors become candidates."""

import time
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Literal, NamedTuple, TypeAlias

import anyio
import anyio.to_thread
import msgspec
from msgspec import Struct

from bigbrotr.config.settings import FinderSettings, SourceSettings
from bigbrotr.core.base_service import BaseService, Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.candidates import Archived, Mention, Walk
from bigbrotr.core.defects import Defects
from bigbrotr.core.metrics import Sample
from bigbrotr.models.coverage import Span
from bigbrotr.models.mentions import mentioned
from bigbrotr.models.relay import Network, Relay
from bigbrotr.models.witnesses import Word
from bigbrotr.net.connect import Failure, Unreached
from bigbrotr.net.dial import dial
from bigbrotr.net.http import Fault, Unfetched, fetch
from bigbrotr.net.politeness import Politeness, politeness_of
from bigbrotr.nostr.monitors import MonitorReading
from bigbrotr.nostr.questions import GapReason
from bigbrotr.nostr.session import Bounds, Session

SOURCES = ("events", "list", "monitors")  # who names relays
OK = "ok"  # nothing was wrong with an answer
PAGES = 20  # of the queue, taken at once: what they name was in pages of max_page_bytes
EVENTS = 2000  # of the archive, looked at together
QUIET_S = 10.0  # between two lines in the log about a walk through the archive
MAX_LISTED = 50_000  # values of one list that are looked at
MONITOR_PAGES = 40  # of one relay at a time; what is older is out of date
MONITOR_S = 60.0  # then no other page is asked for
MONITOR_LATE_S = 900  # how late what a monitor says may reach a relay
FRAME_BYTES = 1 << 20
PAGE_BYTES = 4 << 20
PAGE_ROUNDS = 3  # reply time-outs that a page may take

_tags_decoder = msgspec.json.Decoder(tuple[tuple[str, ...], ...])


class Errand(NamedTuple):
    """Somebody to be asked for relays from time to time."""

    what: str  # the word for it in the log, and in service data
    key: str
    source: str  # of the candidates
    subject: list[str]  # what is asked: if that changes, what is remembered is void
    interval_s: float


class Memory(Struct):
    """What is remembered of an errand."""

    subject: list[str]
    due_at: int = 0
    failures: int = 0  # in a row
    since: int = 0  # what is older has been read


# What is wrong with an answer, beside what may be wrong with any: nothing, or its content.
Remark: TypeAlias = Literal["", "http-status", "unusable"]


class News(NamedTuple):
    """What came of asking, and why that is not all."""

    relays: Sequence[Relay] = ()
    counts: Mapping[str, int] = {}
    trouble: Remark | Failure | Fault | GapReason = ""
    detail: str = ""


class Finder(BaseService[FinderSettings]):
    """Finds URLs of relays. Nothing is believed: each becomes a candidate, to be tried."""

    SERVICE_NAME = "finder"
    CONFIG_CLASS = FinderSettings

    def __init__(
        self,
        brotr: Brotr,
        settings: FinderSettings | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(brotr, settings, context)
        self.asked: Counter[tuple[str, str]] = Counter()  # by whom, and the trouble or OK
        self.found: Counter[str] = Counter()  # new candidates, by who named them
        self.defects = Defects(self.log)

    def metrics(self) -> Iterator[Sample]:
        """Whom it asked, how that ended, and how much came of it."""
        for (source, outcome), times in self.asked.items():
            yield Sample("finder_requests", times, (source, outcome))
        for source in SOURCES:
            yield Sample("candidates_found", self.found[source], (source,))

    @property
    def networks(self) -> list[Network]:
        """Whose relays become candidates. Those of disabled networks wait until they are enabled;
        local ones, which any event could name, are left out unless they are wanted."""
        allows_local = self.context.config.networks.local.enabled
        return [each for each in Network if each is not Network.LOCAL or allows_local]

    @property
    def politeness(self) -> Politeness:
        """This process's."""
        return politeness_of(self.context.config.politeness)

    async def run(self) -> None:
        """Looks wherever there may be something new, and gives up candidates without hope."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._read_events)
            for name, source in self.settings.sources.items():
                if source.enabled:
                    group.start_soon(self._ask_list, name, source)
            monitors = self.settings.monitors
            if monitors.enabled and monitors.pubkeys:
                for url in monitors.relays:
                    group.start_soon(self._ask_about_monitors, Relay(url))
        given_up = await self.brotr.delete_failed_candidates(
            self.context.config.validator.max_attempts, self.settings.tombstone_s
        )
        if given_up:
            self.log.info("gave up candidates", count=given_up)

    # Events

    async def _read_events(self) -> None:
        """Empties the queue of what new events name, and walks the archive from before, if that is
        still to be done."""
        names = new = 0
        looked_at, told_at = 0, time.monotonic()
        while not self._stop.is_set():
            pages, some_names, some_new = await self.brotr.absorb_mentions(
                PAGES, self.networks, self.settings.max_per_host
            )
            walk = await self.brotr.read_walk()
            if walk is not None:
                events, walk_new = await self._walk(walk)
                looked_at, new = looked_at + events, new + walk_new
                self.found["events"] += walk_new
                if not events or time.monotonic() - told_at > QUIET_S:
                    self.log.info("walked the archive", events=looked_at, is_done=not events)
                    told_at = time.monotonic()
            names, new = names + some_names, new + some_new
            self.found["events"] += some_new
            if not pages and walk is None:
                break
        if new:
            self.log.info("found in events", new=new, names=names)

    async def _walk(self, walk: Walk) -> tuple[int, int]:
        """A stretch of the archive; how many events there were, and how many new candidates."""
        events = await self.brotr.read_archive(walk, EVENTS)
        goal = None
        if events:
            goal = Walk(walk.until, events[-1].created_at, events[-1].id.hex())
        mentions = await anyio.to_thread.run_sync(look_through, events, walk.until, self.networks)
        new = await self.brotr.advance_walk(walk, goal, mentions, self.settings.max_per_host)
        return len(events), new

    # Lists on the web, and monitors

    async def _ask_list(self, name: str, source: SourceSettings) -> None:
        async def ask(_: Memory) -> News:
            answer = await fetch(
                source.url,
                self.context.config.networks,
                max_bytes=source.max_bytes,
                timeout_s=source.timeout_s,
                accept="application/json",
                politeness=self.politeness,
            )
            if isinstance(answer, Unfetched):
                return News(trouble=answer.reason, detail=answer.detail)
            if answer.status != 200:
                return News(trouble="http-status", detail=str(answer.status))
            try:
                # In a thread, as all that takes a while: the loop has others to serve.
                listed = await anyio.to_thread.run_sync(read_list, answer.body, source.path)
            except ValueError as error:
                return News(trouble="unusable", detail=str(error))
            counts = {"junk": listed.junk, "queries_dropped": listed.queries}
            return News(listed.relays, {name: count for name, count in counts.items() if count})

        errand = Errand("list", name, f"api {name}", [source.url, source.path], source.interval_s)
        await self._run_errand(errand, ask)

    async def _ask_about_monitors(self, relay: Relay) -> None:
        config, monitors = self.context.config, self.settings.monitors
        link = config.networks.link(relay.network)
        if not link.enabled:
            return

        async def ask(memory: Memory) -> News:
            stream = await dial(
                relay,
                link,
                max_frame_bytes=FRAME_BYTES,
                allow_local=config.networks.local.enabled,
                politeness=self.politeness,
            )
            if isinstance(stream, Unreached):
                return News(trouble=stream.failure, detail=stream.detail)
            now = int(time.time())
            reading = MonitorReading(frozenset(monitors.pubkeys), Span(memory.since, now + 1))
            bounds = Bounds(link.timeout_s, PAGE_ROUNDS * link.timeout_s, PAGE_BYTES)
            until = time.monotonic() + MONITOR_S
            async with Session(stream) as session:
                for _ in range(MONITOR_PAGES):
                    if (request := reading.request()) is None:
                        break
                    page = await session.fetch(request, bounds)
                    await anyio.to_thread.run_sync(reading.take, page)  # it verifies signatures
                    if not session.is_open or self._stop.is_set() or time.monotonic() > until:
                        reading.give_up()
            await self._note_words(reading.words)
            memory.since = memory.since if reading.trouble else max(0, now - MONITOR_LATE_S)
            counts = {"events": reading.events}
            if reading.rejected:
                counts["rejected"] = reading.rejected
            trouble: Remark | GapReason = GapReason(reading.trouble) if reading.trouble else ""
            return News([Relay(url) for url in reading.urls], counts, trouble)

        errand = Errand(
            "monitors", relay.url, "monitor", sorted(monitors.pubkeys), monitors.interval_s
        )
        await self._run_errand(errand, ask)

    async def _note_words(self, words: Sequence[Word]) -> None:
        """Keeps what monitors say of relays as the word of witnesses."""
        settings = self.context.config.witnesses
        if settings.enabled and words:
            own = await self.brotr.own_monitors()
            await self.brotr.note_words(
                [
                    word
                    for word in words
                    if word.pubkey not in own
                    and (not settings.only_these or word.pubkey in settings.keys)
                ],
                [],
                most=settings.most,
                protected=settings.keys,
            )

    async def _run_errand(self, errand: Errand, ask: Callable[[Memory], Awaitable[News]]) -> None:
        """Asks, if it is due, for what is new; where that fails, again after a growing while."""
        memory = await self._recall(errand)
        if memory.due_at > time.time():
            return
        try:
            news = await ask(memory)
        except Exception as error:  # the fault of the one that is asked, and of no other
            words = self.defects.note(error, **{errand.what: errand.key})
            news = News(trouble=Failure.DEFECT, detail=words)
        # Named 0 times: who repeats himself each day names a relay once.
        mentions = [
            Mention(each, errand.source, 0) for each in news.relays if each.network in self.networks
        ]
        new = await self.brotr.add_mentions(mentions, self.settings.max_per_host)
        self.asked[errand.what, str(news.trouble) or OK] += 1
        self.found[errand.what] += new
        delay_s = int(errand.interval_s)
        memory.failures = memory.failures + 1 if news.trouble else 0
        if news.trouble:
            delay_s = min(delay_s, await self.brotr.backoff_s(memory.failures))
        memory.due_at = int(time.time()) + delay_s
        await self.brotr.upsert_service_data(
            [(self.SERVICE_NAME, errand.what, errand.key, msgspec.to_builtins(memory))]
        )
        fields: dict[str, object] = {errand.what: errand.key, "relays": len(news.relays)}
        fields |= {"new": new, **news.counts}
        if news.trouble:
            fields |= {"trouble": news.trouble, "detail": news.detail, "again_in_s": delay_s}
        self.log.info("asked for relays", **fields)

    async def _recall(self, errand: Errand) -> Memory:
        for row in await self.brotr.get_service_data(self.SERVICE_NAME, errand.what, errand.key):
            with suppress(msgspec.ValidationError):  # of another release
                memory = msgspec.convert(row["value"], Memory)
                if memory.subject == errand.subject:
                    return memory
        return Memory(errand.subject)


def look_through(
    events: Sequence[Archived], until: int, networks: Sequence[Network]
) -> list[Mention]:
    """The relays that archived events name, those that were first seen from `until` on uncounted:
    they have been counted on their way in."""
    sources: dict[str, str] = {}
    times: dict[str, int] = {}
    for event in events:
        tags = _tags_decoder.decode(event.tags) if "://" in event.tags else ()
        for url in mentioned(event.kind, tags, event.content):
            sources.setdefault(url, f"kind {event.kind}")
            times[url] = times.get(url, 0) + (event.seen_at < until)
    relays = ((Relay(url), source, times[url]) for url, source in sources.items())
    return [Mention(*found) for found in relays if found[0].network in networks]


class Listed(NamedTuple):
    """What is in a list."""

    relays: list[Relay]
    junk: int = 0  # values that are no relay
    queries: int = 0  # of relays, that were dropped


def read_list(body: bytes, path: str) -> Listed:
    """The relays in a JSON document where `path` (JSONPath) leads.

    Raises:
        ValueError: it is no JSON, or there is no relay in it.
    """
    import jsonpath  # slow to import, and without lists nobody needs it

    try:
        found = jsonpath.compile(path).finditer(msgspec.json.decode(body.removeprefix(BOM_UTF8)))
        values = [match.obj for match in islice(found, MAX_LISTED)]
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ValueError(f"not JSON: {error}") from None
    except (jsonpath.JSONPathError, RecursionError) as error:
        raise ValueError(f"{path} cannot be followed: {error}") from None
    relays: dict[str, Relay] = {}
    junk = queries = 0
    for value in values:
        text = value if isinstance(value, str) else ""
        try:
            relay = Relay.discovered(text)
        except ValueError:
            junk += 1
        else:
            relays[relay.url] = relay
            queries += "?" in text.partition("#")[0]
    if not relays:
        raise ValueError(f"no relay at {path}, but {junk} other values")
    return Listed(list(relays.values()), junk, queries)
