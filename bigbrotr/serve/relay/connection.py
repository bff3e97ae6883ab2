"""One client of the relay: takes its messages and answers them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
from aiohttp import WSCloseCode, WSMsgType, web

from bigbrotr.core.defects import refusal
from bigbrotr.models.query import Query
from bigbrotr.nostr.negentropy import NegentropyError
from bigbrotr.reads.events import NotKeptError, NotSearchedError
from bigbrotr.reads.policy import UnsettledError
from bigbrotr.serve.relay import messages
from bigbrotr.serve.relay.authentication import Authentication
from bigbrotr.serve.relay.counting import Counted, count_one, count_union
from bigbrotr.serve.relay.messages import (
    Close,
    Count,
    Garbage,
    Login,
    NegClose,
    NegMessage,
    NegOpen,
    Offer,
    Refused,
    Req,
    values_of,
)
from bigbrotr.serve.relay.outbox import Outbox
from bigbrotr.serve.relay.reconciliation import Session, TooManyError
from bigbrotr.serve.relay.stored import Stored, TooSlowError
from bigbrotr.serve.relay.subscription import Subscription
from bigbrotr.serve.relay.views import View
from bigbrotr.serve.relay.work import NoTimeError

if TYPE_CHECKING:
    from bigbrotr.serve.relay.relay import Relay

T = TypeVar("T")
REQ, COUNT, NEG = (each.__name__ for each in (Req, Count, NegOpen))  # kinds of answers
VERBS = {REQ: "REQ", COUNT: "COUNT", NEG: "NEG-OPEN"}
AT_ONCE = 2  # answers of one connection that are worked on
MOST_GARBAGE = 20  # messages that are none; then the connection ends
IDLE_S = 600.0  # a connection without a subscription on which nothing is said ends
SESSION_S = 120.0  # and a reconciliation


class Connection:
    """One client, from its upgrade to its end. What it asks is answered beside what it says."""

    def __init__(
        self,
        relay: "Relay",
        view: View,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport,
        address: str,
        hosts: list[str],
    ) -> None:
        self.outbox = Outbox(socket, transport, relay.settings.limits.unsent_kb * 1024)
        self.socket = socket
        self._relay = relay
        self._view = view
        self._address = address
        self.subscriptions: dict[str, Subscription] = {}
        self.sessions: dict[str, Session] = {}
        self._values = 0  # in the filters of all subscriptions
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}  # by kind and name
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._garbage = 0
        self._login: Authentication | None = None
        if relay.settings.auth:
            self._login = Authentication(relay.settings.readers, hosts)

    async def run(self) -> None:
        """Talks with the client until one of both ends it."""
        try:
            if self._login is not None:
                self.outbox.put(messages.auth(self._login.challenge))
            await self._listen()
        except ConnectionError:
            pass  # the client is gone
        finally:
            for task in self._tasks.values():
                task.cancel()
            for name in list(self.subscriptions):
                self._forget(name)
            for name in list(self.sessions):
                self._end_session(name)
            self.outbox.close()

    async def _listen(self) -> None:
        heard_at = time.monotonic()
        while True:
            try:
                message = await self.socket.receive(SESSION_S if self.sessions else IDLE_S)
            except TimeoutError:
                self._end_idle_sessions()
                is_used = self.subscriptions or self.sessions or self._tasks
                if is_used or time.monotonic() < heard_at + IDLE_S:
                    continue
                await self.socket.close(code=WSCloseCode.OK, message=b"nothing was said")
                return
            heard_at = time.monotonic()
            if message.type is WSMsgType.TEXT:
                await self._relay.buckets.wait(self._address)
                self._end_idle_sessions()
                await self._take(message.data)
            elif message.type is WSMsgType.BINARY:
                await self._relay.buckets.wait(self._address)
                await self._count_garbage("invalid: a message is text")
            else:  # closed, by the client or by aiohttp
                return

    async def _take(self, frame: bytes) -> None:
        said = messages.read(frame, self._relay.settings.limits.max_filters)
        match said:
            case Close(name):
                self._forget(name)
            case Garbage(reason):
                await self._count_garbage(reason)
            case Refused(kind, name, _):
                # What had the name is replaced, by nothing.
                if kind == "CLOSED":
                    self._forget(name)
                self.outbox.put(messages.refused(said))
            case Offer(event_id):
                reason = "blocked: this is an archive of other relays; it takes no events"
                if event_id is None:
                    await self._count_garbage("invalid: an event has an id")
                else:
                    self.outbox.put(messages.ok(event_id, False, reason))
            case Login(event):
                self._log_in(event)
            case NegClose(name):
                self._end_session(name)
            case NegMessage(name, payload):
                self._reconcile(name, payload)
            case Req() | Count() | NegOpen():
                self._begin(said)

    async def _count_garbage(self, reason: str) -> None:
        self._garbage += 1
        self.outbox.put(messages.notice(reason))
        if self._garbage >= MOST_GARBAGE:
            await self.socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"garbage")

    def _log_in(self, event: object) -> None:
        if self._login is None:
            self.outbox.put(messages.notice("invalid: nobody has to authenticate here"))
            return
        event_id, is_right, reason = self._login.try_event(event)
        self.outbox.put(messages.ok(event_id, is_right, reason))

    # What is asked

    def _begin(self, said: Req | Count | NegOpen) -> None:
        """Begins an answer, in a task of its own, in place of what has its name."""
        name = said.subscription
        kind = type(said).__name__
        self._relay.counts[VERBS[kind]] += 1
        match said:
            case Req():
                self._forget(name)
            case NegOpen():
                self._end_session(name)
            case Count():
                self._cancel(kind, name)
        if reason := self._refusal(said):
            self._end(kind, name, reason)
            return
        work: Callable[[], Coroutine[Any, Any, None]]
        match said:
            case Req(_, queries):
                work = partial(self._answer, self._subscribe(name, queries))
            case Count(_, queries, first_tag):
                work = partial(self._count, name, queries, first_tag)
            case NegOpen(_, queries, payload):
                work = partial(self._compare, name, queries, payload)
        task = asyncio.create_task(self._guarded(work, partial(self._end, kind, name)))
        self._tasks[kind, name] = task
        task.add_done_callback(lambda done: self._is_done(kind, name, done))

    def _refusal(self, said: Req | Count | NegOpen) -> str | None:
        limits = self._relay.settings.limits
        if self._login is not None and (reason := self._login.refusal):
            return reason
        if self._values + values_of(said.queries) > limits.max_values:
            return f"blocked: more than {limits.max_values} values in the filters of a connection"
        if isinstance(said, NegOpen):
            open_ = len(self.sessions) + sum(kind == NEG for kind, _ in self._tasks)
            if open_ >= limits.max_reconciliations:
                return f"blocked: {limits.max_reconciliations} reconciliations at once at most"
        elif isinstance(said, Req):
            if len(self.subscriptions) >= limits.max_subscriptions:
                return f"blocked: {limits.max_subscriptions} subscriptions at once at most"
        elif sum(kind == COUNT for kind, _ in self._tasks) >= limits.max_subscriptions:
            return f"blocked: {limits.max_subscriptions} counts at once at most"
        return None

    async def _guarded(
        self, work: Callable[[], Coroutine[Any, Any, None]], end: Callable[[str], None]
    ) -> None:
        """Does what was asked; what goes wrong is told to the client in a sentence."""
        try:
            async with self._at_once:
                await self._relay.settled()
                await work()
        except ConnectionError:
            pass  # the client is gone
        except TooManyError as error:
            end(str(error))
        except Exception as error:
            end(self._excuse(error))

    def _excuse(self, error: Exception) -> str:
        if isinstance(error, NoTimeError):
            return str(error)
        if isinstance(error, UnsettledError):
            return "error: it is being looked for what is not to be shown here; ask again later"
        if isinstance(error, NotKeptError):
            return "unsupported: this archive keeps neither tags nor contents"
        if isinstance(error, NotSearchedError):
            return "unsupported: this archive has no index of words"
        if isinstance(error, TooSlowError | asyncpg.QueryCanceledError):
            return "error: that takes too long; ask for less time, or with more conditions"
        if isinstance(error, TimeoutError):
            return "error: the database has no time; ask again"
        if isinstance(error, asyncpg.DataError | OverflowError):
            return "invalid: a value is larger than the archive can hold"
        if refusal(error) is not None:
            return "error: the database does not answer; ask again"
        self._relay.defects.note(error)
        return "error: a defect of bigbrotr"

    def _end(self, kind: str, name: str, reason: str) -> None:
        """Tells that an answer ends before it is one."""
        if kind == NEG:
            self.outbox.put(messages.neg_error(name, reason))
            return
        if kind == REQ:
            self._forget(name, cancel=False)
        self.outbox.put(messages.closed(name, reason))

    def end_subscription(self, subscription: Subscription, reason: str) -> None:
        """Ends a subscription for a reason of ours."""
        if self.subscriptions.get(subscription.name) is subscription:
            self._forget(subscription.name)
            self.outbox.put(messages.closed(subscription.name, reason))

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        return await self._relay.desk.ask(self._address, question)

    # Subscriptions

    def _subscribe(self, name: str, queries: list[Query]) -> Subscription:
        subscription = Subscription(name, queries, self.outbox)
        self.subscriptions[name] = subscription
        self._values += values_of(queries)
        if self._relay.keeps_events:
            self._view.live.add(subscription, queries)
            self._relay.owners[subscription] = self
        return subscription

    async def _answer(self, subscription: Subscription) -> None:
        if not self._relay.keeps_events:
            raise NotKeptError
        await self._relay.follower.begin()
        limits = self._relay.settings.limits
        stored = Stored(
            self._view.events,
            subscription.queries,
            self._ask,
            default_limit=limits.default_limit,
            max_limit=limits.max_limit,
            answer_s=limits.answer_s,
        )
        async for page in stored.pages():
            await self.outbox.send([subscription.frame(event) for event in page])
            self._relay.counts["events"] += len(page)
        hint = None
        if stored.is_asked and self._relay.settings.hints:
            hint = "more" if stored.has_more else "finish"
        await self.outbox.send([messages.eose(subscription.name, hint)])
        subscription.go_live()
        self._relay.follower.settle(subscription)

    def _forget(self, name: str, *, cancel: bool = True) -> None:
        """Ends a subscription, if there is one of that name."""
        if cancel:
            self._cancel(REQ, name)
        subscription = self.subscriptions.pop(name, None)
        if subscription is not None:
            self._values -= values_of(subscription.queries)
            self._view.live.remove(subscription)
            self._relay.follower.leave(subscription)
            self._relay.owners.pop(subscription, None)

    def _cancel(self, kind: str, name: str) -> None:
        if (task := self._tasks.pop((kind, name), None)) is not None:
            task.cancel()

    def _is_done(self, kind: str, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get((kind, name)) is task:
            del self._tasks[kind, name]

    # Counts

    async def _count(self, name: str, queries: list[Query], first_tag: str | None) -> None:
        reads, most = self._view.events, self._relay.settings.limits.count_exactly

        async def look() -> Counted:
            if len(queries) == 1:
                tag = first_tag if self._relay.keeps_events else None
                return await count_one(reads, queries[0], tag, most)
            return await count_union(reads, queries, most)

        found = await self._ask(look)
        self.outbox.put(messages.count(name, found.number, is_exact=found.is_exact, hll=found.hll))

    # Reconciliations

    async def _compare(self, name: str, queries: list[Query], payload: bytes) -> None:
        try:
            held = await self._relay.holdings.take(self._view, queries, self._ask)
        except TooManyError as error:
            self.outbox.put(messages.neg_error(name, str(error), error.most))
            return
        self.sessions[name] = Session(held, self._relay.settings.limits.frame_bytes)
        self._reconcile(name, payload)

    def _reconcile(self, name: str, payload: bytes) -> None:
        session = self.sessions.get(name)
        if session is None:
            self.outbox.put(messages.neg_error(name, "closed: no such reconciliation is open"))
            return
        began = time.monotonic()
        try:
            self.outbox.put(messages.neg_message(name, session.answer(payload)))
        except NegentropyError as error:
            self._end_session(name)
            self.outbox.put(messages.neg_error(name, f"invalid: {error}"))
        self._relay.desk.work.spend(self._address, time.monotonic() - began)

    def _end_session(self, name: str) -> None:
        self._cancel(NEG, name)
        if (session := self.sessions.pop(name, None)) is not None:
            session.close()

    def _end_idle_sessions(self) -> None:
        now = time.monotonic()
        for name, session in list(self.sessions.items()):
            if now - session.used_at > SESSION_S:
                self._end_session(name)
                self.outbox.put(messages.neg_error(name, "closed: nothing was said for long"))
