"""The relay of a process: lets clients in, and holds what they share."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import WSCloseCode, hdrs, web

from bigbrotr.config.settings import ServeRelaySettings, ServeSettings
from bigbrotr.core.defects import Defects, refusal
from bigbrotr.core.logger import Logger
from bigbrotr.core.pool import Pool
from bigbrotr.reads.policy import Settled
from bigbrotr.serve.limits import Buckets, Connections
from bigbrotr.serve.orders import RelayReport
from bigbrotr.serve.problems import RefusedError
from bigbrotr.serve.relay.authentication import netloc
from bigbrotr.serve.relay.connection import Connection
from bigbrotr.serve.relay.document import KIND, document
from bigbrotr.serve.relay.follower import Follower
from bigbrotr.serve.relay.reconciliation import Holdings
from bigbrotr.serve.relay.subscription import Subscription
from bigbrotr.serve.relay.upkeep import Upkeep
from bigbrotr.serve.relay.views import ARCHIVE, View, views_of
from bigbrotr.serve.relay.work import Desk, Work

HEARTBEAT_S = 30.0  # from ping to ping; whoever does not answer within half of it is cut
CLOSE_S = 1.0  # for clients to say good-bye
DOCUMENT_S = 600  # how long the document may be kept


class Relay:
    """Answers who comes as a client of Nostr: `answer` gets each request for one of its paths."""

    def __init__(
        self, pool: Pool, serve: ServeSettings, log: Logger, *, keeps_events: bool
    ) -> None:
        settings: ServeRelaySettings = serve.relay
        limits = settings.limits
        self.settings = settings
        self._pool = pool
        self._settled = Settled(pool)
        self.keeps_events = keeps_events
        self.views = views_of(pool, with_archive=settings.archive)
        self.defects = Defects(log)
        # Messages and work are counted by each process for itself: it has its part of both.
        self.buckets = Buckets(limits.messages_per_s / serve.width, limits.burst)
        self.connections = Connections(
            serve.limits.connections, serve.limits.connections_per_address
        )
        # One connection is left to others: the follower, and the API.
        width = max(1, serve.limits.database_connections - 1)
        work = Work(limits.work_per_s / serve.width, limits.work_burst_s)
        self.desk = Desk(work, width)
        self.holdings = Holdings(limits.max_reconciled, limits.reconciliation_mb * 1_000_000)
        self.holdings.keep_up = Upkeep(pool, self.holdings.changing, self.holdings.drop, log)
        self.follower = Follower(pool, self.views.values(), self._end, self._count, log)
        self.owners: dict[Subscription, Connection] = {}
        self.counts: Counter[str] = Counter()  # requests by kind; events sent; clients cut
        self._public = netloc(serve.public_url or "")
        self._open: set[Connection] = set()

    async def answer(
        self, request: web.BaseRequest, path: str, address: str
    ) -> web.StreamResponse | None:
        """The answer to a request from an address: the document, or a whole conversation; None if
        it is not for a relay.

        Raises:
            RefusedError: there are too many clients.
        """
        view = self.views.get(path)
        if view is None:
            return None
        if request.headers.get(hdrs.UPGRADE, "").lower() == "websocket":
            return await self._talk(request, view, address)
        if KIND in request.headers.get(hdrs.ACCEPT, ""):
            headers = {
                hdrs.CONTENT_TYPE: KIND,
                hdrs.CACHE_CONTROL: f"public, max-age={DOCUMENT_S}",
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "Accept",
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, HEAD, OPTIONS",
            }
            found = document(
                self.settings,
                is_archive=path == ARCHIVE,
                keeps_events=self.keeps_events,
                is_searched=await self._is_searched(view),
            )
            return web.Response(body=found, headers=headers)
        return None

    async def settled(self) -> None:
        """Sees to it that what is not to be shown is known.

        Raises:
            UnsettledError: it is being looked for.
        """
        await self._settled.check()

    def report(self) -> RelayReport:
        """How it is now, and what it has done."""
        return RelayReport(
            connections=len(self._open),
            subscriptions=sum(len(each.subscriptions) for each in self._open),
            reconciliations=sum(len(each.sessions) for each in self._open),
            ids=self.holdings.items,
            requests={kind: self.counts[kind] for kind in ("REQ", "COUNT", "NEG-OPEN")},
            events=self.counts["events"],
            cut=self.counts["cut"],
        )

    async def _is_searched(self, view: View) -> bool:
        """Whether there is an index of words; also where the database does not say."""
        try:
            return await view.events.searched_kinds() is not None
        except Exception as error:
            if refusal(error) is None and not isinstance(error, TimeoutError):
                self.defects.note(error)
            return False

    async def _talk(self, request: web.BaseRequest, view: View, address: str) -> web.StreamResponse:
        try:
            if not self.connections.enter(address, is_trusted=False):
                raise RefusedError(
                    "too-many-requests", "too many connections of this address", retry_after_s=60
                )
            socket = web.WebSocketResponse(
                heartbeat=HEARTBEAT_S,
                max_msg_size=self.settings.limits.max_message_bytes,
                decode_text=False,
                writer_limit=0,  # look after each write whether the client takes it
            )
            try:
                await socket.prepare(request)
            except web.HTTPException as error:
                words = f"the upgrade to WebSocket is none: {error.text}"
                raise RefusedError("bad-request", words) from None
            transport = request.transport
            if transport is None:
                raise ConnectionResetError("the client is gone")
            hosts = [each for each in (self._public, request.host.lower()) if each]
            connection = Connection(self, view, socket, transport, address, hosts)
            self._open.add(connection)
            try:
                await connection.run()
            finally:
                self._open.discard(connection)
                self.counts["cut"] += connection.outbox.is_cut
            return socket
        finally:
            self.connections.leave(address)

    def _count(self, events: int) -> None:
        self.counts["events"] += events

    def _end(self, subscription: Subscription, reason: str) -> None:
        if (owner := self.owners.get(subscription)) is not None:
            owner.end_subscription(subscription, reason)

    async def close(self) -> None:
        """Says good-bye to all clients."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(
                    *(
                        each.socket.close(code=WSCloseCode.GOING_AWAY, message=b"good-bye")
                        for each in self._open
                    ),
                    return_exceptions=True,
                )
        await self.holdings.close()


@asynccontextmanager
async def open_relay(
    pool: Pool, settings: ServeSettings, log: Logger
) -> AsyncIterator[Relay | None]:
    """The relay for the length of the block; None if none is wanted."""
    if not settings.relay.enabled:
        yield None
        return
    kept = await pool.fetchval("SELECT * FROM bigbrotr.kept_columns()")
    relay = Relay(pool, settings, log, keeps_events="content" in kept)
    assert relay.holdings.keep_up is not None
    tasks = [asyncio.create_task(each.run()) for each in (relay.follower, relay.holdings.keep_up)]
    try:
        yield relay
    finally:
        await relay.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
