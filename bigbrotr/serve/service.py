"""Answers the requests of people and programs: finds the resource, asks for it, sends it."""

import asyncio
import hashlib
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from itertools import zip_longest
from typing import Any, cast

import asyncpg
import msgspec
from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestHandler
from msgspec import Struct

from bigbrotr.config.settings import ServeSettings
from bigbrotr.core.defects import Defects, refusal
from bigbrotr.core.logger import Logger
from bigbrotr.core.pool import Pool
from bigbrotr.reads.policy import UnsettledError
from bigbrotr.serve import openapi, reference
from bigbrotr.serve.ask import IDENTITY
from bigbrotr.serve.changes import ChangeStreams
from bigbrotr.serve.guard import Guard
from bigbrotr.serve.limits import NOBODY, Buckets, Connections, Proxies, group
from bigbrotr.serve.management import Management
from bigbrotr.serve.pages.page import HTML, Redirect
from bigbrotr.serve.pages.site import Site
from bigbrotr.serve.parameters import MAX_SHOWN, decoded, read_parameters, shown, split_query
from bigbrotr.serve.problems import TYPE, RefusedError
from bigbrotr.serve.relay.relay import Relay
from bigbrotr.serve.resource import (
    EVENTS,
    LINES,
    MAX_ROWS,
    NDJSON,
    ROWS,
    Form,
    Lines,
    ListQuery,
    Many,
    One,
    Part,
    Query,
    Resource,
    make_cursor,
    read_cursor,
)

PREFIX = "/api/v1"
JSON = "application/json"
MIN_GZIP = 1000  # bytes: below, it saves nothing
GZIP = 31  # zlib's window, with a header of gzip
LEVEL = 1  # 3 ms a MB; the others save little more
STALL_S = 30.0  # between two looks at who reads slowly
SLOWEST = 1000  # bytes a second that a reader has to take
WAITING = 8  # questions that wait for each connection to the database; more are refused
IDLE_S = 60.0  # a connection on which nothing is asked
NOT_FOUND_S = 10  # how long "there is none" may be kept
PAGE_S = 3600  # and a page that only a new release changes
FILE_S = 365 * 86_400  # and a file whose name says what is in it
FRESH_BYTES = 16 * 1024 * 1024  # of answers that are kept for who asks the same
METHODS = "GET, HEAD, OPTIONS"  # and POST, where the archive is managed over HTTP
ENCODER = msgspec.json.Encoder()
PREFLIGHT = {
    "Access-Control-Allow-Methods": METHODS,
    "Access-Control-Allow-Headers": "Accept, If-None-Match, Last-Event-ID",
    "Access-Control-Max-Age": "86400",
}
# What each answer says, whatever it is.
ALWAYS = {
    "Server": "bigbrotr",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept, Accept-Encoding, Origin",
}


class Answer(Struct):
    """An answer that may be sent again: as it is, and packed once somebody has asked for that."""

    body: bytes
    kind: str
    max_age_s: int
    digest: str
    until: float  # monotonic
    policy: str = ""  # of its content, for browsers
    status: int = 200
    packed: bytes | None = None

    @classmethod
    def of(
        cls,
        body: bytes,
        kind: str,
        max_age_s: int,
        fresh_s: float = 0.0,
        *,
        policy: str = "",
        status: int = 200,
    ) -> "Answer":
        """A new answer, good for `fresh_s`."""
        digest = hashlib.sha256(body, usedforsecurity=False).hexdigest()[:24]
        until = time.monotonic() + fresh_s
        return cls(body, kind, max_age_s, digest, until, policy, status)

    @property
    def size(self) -> int:
        """Bytes in memory at most: packed ones are not larger."""
        return 2 * (len(self.body) + 200)


class Fresh:
    """Answers of the last moment by their question, up to so many bytes; the oldest go first."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._answers: dict[str, Answer] = {}

    def get(self, question: str) -> Answer | None:
        """The answer, if it is still good."""
        found = self._answers.get(question)
        if found is not None and time.monotonic() > found.until:
            self._forget(question)
            return None
        return found

    def keep(self, question: str, answer: Answer) -> None:
        """Keeps an answer, if it is no large part of all."""
        self._forget(question)
        if answer.size > self.most_bytes // 16:
            return
        self._answers[question] = answer
        self.bytes += answer.size
        while self.bytes > self.most_bytes:
            self._forget(next(iter(self._answers)))

    def _forget(self, question: str) -> None:
        if (gone := self._answers.pop(question, None)) is not None:
            self.bytes -= gone.size


class Service:
    """Answers requests about one archive. `identity` names the archive to its neighbours."""

    def __init__(
        self,
        pool: Pool,
        settings: ServeSettings,
        resources: Sequence[Resource],
        log: Logger,
        *,
        identity: str = "",
        relay: Relay | None = None,
        management: Management | None = None,
    ) -> None:
        self.pool = pool
        self.relay = relay
        self.settings = settings
        self.counts: Counter[str] = Counter()  # answers by class of status: 2xx, …
        limits = settings.limits
        self.guard = Guard(settings.address()[0], settings.public_url)
        self.buckets = Buckets(limits.requests_per_s / settings.width, limits.burst)
        self.connections = Connections(limits.connections, limits.connections_per_address)
        self.proxies = Proxies(settings.trusted_proxies)
        self._management = management
        self._defects = Defects(log)
        self._identity = identity
        self._asking = 0  # questions to the database, running or waiting
        self._kept: dict[str, tuple[float, bytes]] = {}
        self._keeping = asyncio.Lock()
        self._fresh = Fresh(FRESH_BYTES)
        self._resources: dict[int, list[Resource]] = {}
        self._all = list(resources)
        for resource in resources:
            self._resources.setdefault(len(resource.segments), []).append(resource)
        url = (settings.public_url or "").rstrip("/") + PREFIX
        schema = openapi.describe(resources, url)
        shown = url if settings.public_url else f"http://{settings.listen}{PREFIX}"
        html = reference.page(resources, shown, schema).encode()
        self._pages = {
            f"{PREFIX}/": Answer.of(html, HTML, PAGE_S, policy=reference.POLICY),
            f"{PREFIX}/openapi.json": Answer.of(msgspec.json.encode(schema), JSON, PAGE_S),
        }
        self._changes = ChangeStreams(pool, log, limits.change_streams)
        self._site = Site(pool, settings) if settings.pages else None
        if self._site is not None:
            for path, (body, kind) in self._site.files.items():
                self._pages[path] = Answer.of(body, kind, FILE_S)

    @property
    def change_streams(self) -> int:
        """How many follow the changes of state now."""
        return self._changes.open

    async def close(self) -> None:
        """Ends what would last: streams of changes."""
        await self._changes.close()

    # A request

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one request; raises nothing but what ends the connection."""
        origin = request.headers.get(hdrs.ORIGIN, "")
        try:
            self._let_in(request, origin)
            response = await self._answer(request)
        except RefusedError as error:
            response = self._refuse_to(request, error)
        except (ConnectionError, asyncio.CancelledError):
            raise  # who asked has gone
        except Exception as error:
            response = self._refuse_to(request, self.excuse(error, request))
        if not response.prepared:
            self.finish(response, origin)
        self.counts[f"{response.status // 100}xx"] += 1
        return response

    def finish(self, response: web.StreamResponse, origin: str) -> None:
        """Adds what every answer says; `origin`: the page that asks, if one does."""
        headers = response.headers
        for name, value in ALWAYS.items():
            headers[name] = value
        if origin and (allowed := self.guard.allowed(origin)) and response.status != 403:
            headers["Access-Control-Allow-Origin"] = allowed
            headers["Access-Control-Expose-Headers"] = "ETag, Retry-After"

    def _let_in(self, request: web.BaseRequest, origin: str) -> None:
        headers = request.headers
        self.guard.check(
            headers.get(hdrs.HOST, ""),
            origin,
            headers.get("Sec-Fetch-Site", ""),
            headers.get("Sec-Fetch-Mode", ""),
        )
        if request.method not in ("GET", "HEAD", "OPTIONS") and not self._is_managed(request):
            raise RefusedError("method-not-allowed", f"only {METHODS} are understood here")
        if wait_s := self.buckets.take(self.client(request)):
            raise RefusedError(
                "too-many-requests",
                f"this address asks more than {self.settings.limits.requests_per_s:g} times a "
                "second: wait as long as Retry-After says, or read a list as a stream (NDJSON)",
                retry_after_s=max(1, round(wait_s + 0.5)),
            )

    def _is_managed(self, request: web.BaseRequest) -> bool:
        return self._management is not None and self._management.is_meant(request)

    def client(self, request: web.BaseRequest) -> str:
        """The address that asks, behind proxies of ours."""
        peer = request.transport.get_extra_info("peername") if request.transport else None
        if not peer:
            return NOBODY
        forwarded = request.headers.getall("X-Forwarded-For", ())
        return self.proxies.client(str(peer[0]), forwarded)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        if not path.startswith("/"):  # the absolute form, which proxies use
            path = "/" + path.partition("://")[2].partition("/")[2]
        if self._management is not None and self._management.is_meant(request):
            return await self._management.answer(request)
        if request.method == "OPTIONS":
            more = {} if self._management is None else self._management.preflight
            return web.Response(status=204, headers=PREFLIGHT | {"Allow": METHODS} | more)
        if self.relay and (told := await self.relay.answer(request, path, self.client(request))):
            return told
        if path == PREFIX or (path == "/" and self._site is None):
            return web.Response(status=302, headers={"Location": f"{PREFIX}/"})
        if found := self._pages.get(path):
            response = self._send_answer(request, found)
            response.headers[IDENTITY] = self._identity
            return response
        if not path.startswith(f"{PREFIX}/"):
            return await self._page(request, path, query)
        accepted = request.headers.get(hdrs.ACCEPT, "")
        is_stream = NDJSON in accepted
        is_followed = EVENTS in accepted and not is_stream
        if not is_stream and not is_followed and (kept := self._fresh.get(request.raw_path)):
            return self._send_answer(request, kept)
        segments = path[len(PREFIX) + 1 :].split("/")
        for resource in self._resources.get(len(segments), ()):
            if (in_path := _match(resource, segments)) is not None:
                break
        else:
            raise self._no_such(path)
        asked = read_parameters(
            resource.query,
            resource.parameters,
            {name: decoded(value) for name, value in in_path.items()},
            split_query(query),
        )
        if isinstance(resource, One):
            return await self._one(request, resource, asked)
        assert isinstance(resource, Many)
        assert isinstance(asked, ListQuery)
        if is_followed and resource.follows is not None:
            place, takes = resource.follows(asked)
            client = self.client(request)

            async def ask(question: Any) -> Any:
                await self.buckets.wait(client)  # who is far behind asks for many pages
                return await self._ask(question)

            return await self._changes.stream(request, place, takes, ask, self.finish)
        after = None
        if asked.cursor is not None:
            after = read_cursor(asked.cursor, asked, resource.key)
        if is_stream:
            return await self._stream(request, resource, asked, after)
        return await self._many(request, resource, asked, after)

    # Pages

    async def _page(self, request: web.BaseRequest, path: str, query: str) -> web.StreamResponse:
        """A page for people, or a file that one of them offers."""
        site = self._site
        if site is None:
            raise self._no_such(path)
        if (file := site.download(path)) is not None:
            return await self._stream(request, *file)
        if kept := self._fresh.get(request.raw_path):
            return self._send_answer(request, kept)
        made = await self._ask(partial(site.make, path, query))
        if made is None:
            raise self._no_such(path)
        if isinstance(made, Redirect):
            headers = {"Location": made.location, "Cache-Control": "no-store"}
            return web.Response(status=302, headers=headers)
        answer = Answer.of(
            made.body,
            made.kind,
            made.max_age_s,
            made.max_age_s,
            policy=made.policy,
            status=made.status,
        )
        if made.status == 200:
            self._fresh.keep(request.raw_path, answer)
        return self._send_answer(request, answer)

    def _refuse_to(self, request: web.BaseRequest, error: RefusedError) -> web.StreamResponse:
        """The answer that says what is wrong, to people on a page of their own."""
        site, path = self._site, request.raw_path
        is_for_people = (
            site is not None
            and not path.startswith(f"{PREFIX}/")
            and "text/html" in request.headers.get(hdrs.ACCEPT, "")
            and request.method in ("GET", "HEAD")
        )
        refused = self.refuse(error)
        if not is_for_people or site is None:
            return refused
        made = site.problem(error)
        headers = {
            "Content-Type": made.kind,
            "Cache-Control": refused.headers["Cache-Control"],
            "Content-Security-Policy": made.policy,
        }
        if "Retry-After" in refused.headers:
            headers["Retry-After"] = refused.headers["Retry-After"]
        return web.Response(status=made.status, body=made.body, headers=headers)

    def _no_such(self, path: str) -> RefusedError:
        below = path.removeprefix(f"{PREFIX}/")[:MAX_SHOWN]
        segments = below.split("/")
        # As they would be, if what stands in place of their parameters were right.
        known = {
            "/".join(
                theirs if ours.startswith("{") else ours
                for ours, theirs in zip_longest(resource.segments, segments, fillvalue="")
                if ours
            ): resource
            for resource in self._all
        }
        near = get_close_matches(below, known, n=1, cutoff=0.6)
        advice = f"do you mean {PREFIX}/{known[near[0]].path}? " if near else ""
        return RefusedError(
            "not-found", f"there is no {shown(path)} here: {advice}{PREFIX}/ lists what there is"
        )

    # Resources

    async def _one(
        self, request: web.BaseRequest, resource: One, query: Query
    ) -> web.StreamResponse:
        if resource.is_kept:
            body = await self._made_once(resource, query)
        else:
            found = await self._ask(partial(resource.read, self.pool, query))
            if found is None:
                raise _not_known(resource, query)
            body = ENCODER.encode(found)
        return self._send(request, body, JSON, resource.max_age_s, resource.fresh_s)

    async def _made_once(self, resource: One, query: Query) -> bytes:
        """The answer, which is made anew when it is older than `max_age_s`."""
        async with self._keeping:  # who comes meanwhile gets the same
            made_at, body = self._kept.get(resource.name, (float("-inf"), b""))
            if time.monotonic() > made_at + resource.max_age_s:
                body = ENCODER.encode(await self._ask(partial(resource.read, self.pool, query)))
                self._kept[resource.name] = time.monotonic(), body
        return body

    async def _many(
        self, request: web.BaseRequest, resource: Many, query: ListQuery, after: Any
    ) -> web.StreamResponse:
        found = await self._part(resource, query, after, query.limit or ROWS)
        if isinstance(found, Lines):
            items = found.array
        else:
            items = ENCODER.encode([item for _, item in found.rows])
        cursor = None if found.next is None else make_cursor(query, found.next)
        body = b'{"items":%b,"next":%b}' % (items, ENCODER.encode(cursor))
        return self._send(request, body, JSON, resource.max_age_s, resource.fresh_s)

    async def _part(self, resource: Many, query: ListQuery, after: Any, limit: int) -> Part | Lines:
        """Rows of a list, and where the next begin."""
        if resource.is_parted:
            found = await self._rows(resource, query, after, limit)
            assert isinstance(found, Part | Lines)
            return found
        rows = await self._rows(resource, query, after, limit + 1)
        return Part(rows[:limit], rows[limit - 1][0] if len(rows) > limit else None)

    async def _rows(self, resource: Many, query: ListQuery, after: Any, limit: int) -> Any:
        rows = await self._ask(partial(resource.read, self.pool, query, after, limit))
        if rows is None:
            raise _not_known(resource, query)
        return rows

    async def _stream(
        self,
        request: web.BaseRequest,
        resource: Many,
        query: ListQuery,
        after: Any = None,
        form: Form = LINES,
    ) -> web.StreamResponse:
        """All rows, a line each: page by page, so that memory holds one of them."""
        left = query.limit
        most = min(resource.at_once, MAX_ROWS)
        size = most if left is None else min(left, most)
        lines, number, after = await self._streamed(resource, query, after, size, form)
        lines = form.head + lines
        is_packed = _takes_gzip(request)
        headers = {"Content-Type": form.kind, "Cache-Control": "no-store"}
        if form.name:
            headers["Content-Disposition"] = f'attachment; filename="{form.name}"'
        if request.method == "HEAD":
            return web.Response(headers=headers)
        response = web.StreamResponse(headers=headers)
        if is_packed:
            response.headers["Content-Encoding"] = "gzip"
        packer = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP)
        self.finish(response, request.headers.get(hdrs.ORIGIN, ""))
        await response.prepare(request)
        try:
            while lines or after is not None:
                if is_packed and lines:
                    lines = packer.compress(lines) + packer.flush(zlib.Z_SYNC_FLUSH)
                if lines:
                    await response.write(lines)
                if left is not None:
                    left -= number
                if after is None or left == 0:
                    break
                size = size if left is None else min(left, size)
                await self.buckets.wait(self.client(request))
                lines, number, after = await self._streamed(resource, query, after, size, form)
            if is_packed:
                await response.write(packer.flush())
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            # Without its last chunk, so that nobody takes it for the whole.
            self.excuse(error, request)
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _streamed(
        self, resource: Many, query: ListQuery, after: Any, size: int, form: Form
    ) -> tuple[bytes, int, Any]:
        """Rows of a stream as lines, how many, and where the next begin: where there are as many
        as were asked for, there may be more."""
        found = await self._rows(resource, query, after, size)
        if isinstance(found, Lines):
            return (found.text + b"\n" if found.text else b""), found.number, found.next
        if isinstance(found, Part):
            rows, following = found
        else:
            rows, following = found, (found[-1][0] if len(found) == size else None)
        lines = b"".join(map(form.line, (item for _, item in rows)))
        return lines, len(rows), following

    async def _ask(self, question: Any) -> Any:
        """Asks the database, unless too many wait for it already."""
        if self._asking >= self.settings.limits.database_connections * WAITING:
            raise _busy()
        self._asking += 1
        try:
            return await question()
        finally:
            self._asking -= 1

    # Answers

    def _send(
        self, request: web.BaseRequest, body: bytes, kind: str, max_age_s: int, fresh_s: float = 0
    ) -> web.StreamResponse:
        """The whole answer, or that it is the same still; it is given again for `fresh_s`."""
        answer = Answer.of(body, kind, max_age_s, fresh_s)
        if fresh_s:
            self._fresh.keep(request.raw_path, answer)
        return self._send_answer(request, answer)

    def _send_answer(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        etag = f'W/"{answer.digest}"'  # weak: packed or not, it is the same
        headers = {"ETag": etag, "Cache-Control": f"public, max-age={answer.max_age_s}"}
        known = request.headers.get(hdrs.IF_NONE_MATCH)
        if known is not None and (answer.digest in known or known.strip() == "*"):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = answer.kind
        if answer.policy:
            headers["Content-Security-Policy"] = answer.policy
        body = answer.body
        if len(body) >= MIN_GZIP and _takes_gzip(request):
            if answer.packed is None:
                packer = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP)
                answer.packed = packer.compress(body) + packer.flush()
            body = answer.packed
            headers["Content-Encoding"] = "gzip"
        return web.Response(status=answer.status, body=body, headers=headers)

    def refuse(self, error: RefusedError) -> web.StreamResponse:
        """The answer that says what is wrong, and what to do."""
        reference_url = (self.settings.public_url or "").rstrip("/") + f"{PREFIX}/"
        headers = {"Content-Type": TYPE, "Cache-Control": "no-store"}
        if error.kind == "not-found":
            headers["Cache-Control"] = f"public, max-age={NOT_FOUND_S}"
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(error.retry_after_s)
        if error.kind == "method-not-allowed":
            headers["Allow"] = METHODS
        body = msgspec.json.encode(error.problem(reference_url))
        return web.Response(status=error.status, body=body, headers=headers)

    def excuse(self, error: Exception, request: web.BaseRequest) -> RefusedError:
        """What an exception is to a stranger; defects of ours are logged."""
        limit_s = self.settings.limits.statement_timeout_s
        if isinstance(error, asyncpg.QueryCanceledError):
            return RefusedError(
                "too-slow",
                f"the answer takes longer than {limit_s:g} s: ask for less, with a smaller limit "
                "or more conditions",
                retry_after_s=60,
            )
        if isinstance(error, TimeoutError):
            return _busy()
        if isinstance(error, UnsettledError):
            return RefusedError(
                "not-settled",
                "it is being looked for what is not to be shown here: what is no event can be "
                "asked for meanwhile",
                retry_after_s=30,
            )
        if isinstance(error, asyncpg.DataError | asyncpg.exceptions.DataError | OverflowError):
            return RefusedError("bad-parameter", "a value is larger than the archive can hold")
        if refusal(error) is not None:
            return RefusedError(
                "database-away", "the database does not answer: try again", retry_after_s=5
            )
        self._defects.note(error, path=request.raw_path[:200])
        return RefusedError("defect", "a defect of bigbrotr: its log has the details")


def _busy() -> RefusedError:
    return RefusedError("busy", "too many questions at once: try again", retry_after_s=1)


def _not_known(resource: Resource, query: Query) -> RefusedError:
    """The refusal of a thing that is named in the path."""
    for name, parameter in resource.parameters.items():
        if parameter.is_in_path:
            words = f"nothing of that is known of the {name} {shown(getattr(query, name))}"
            return RefusedError("not-found", words, parameter=name)
    return RefusedError("not-found", "nothing of that is known")


def _match(resource: Resource, segments: Sequence[str]) -> Mapping[str, str] | None:
    """The parameters in a path; None: it is another resource's."""
    found: dict[str, str] = {}
    if len(segments) != len(resource.segments):
        return None
    for ours, theirs in zip(resource.segments, segments, strict=True):
        if ours.startswith("{"):
            if not theirs:
                return None
            found[ours[1:-1]] = theirs
        elif ours != theirs:
            return None
    return found


def _takes_gzip(request: web.BaseRequest) -> bool:
    accepted = request.headers.get(hdrs.ACCEPT_ENCODING, "")
    return "gzip" in accepted and "gzip;q=0" not in accepted.replace(" ", "")


class Server(web.Server):
    """Speaks HTTP for a service, with bounds on connections."""

    def __init__(self, service: Service) -> None:
        super().__init__(
            service.handle,
            handler_cancellation=True,  # who has gone is not asked for any more
            access_log=None,
            keepalive_timeout=IDLE_S,
            lingering_time=2.0,
        )
        self._service = service

    def __call__(self) -> RequestHandler:
        """Makes what handles one connection."""
        return _Connection(self, self._service, self._loop, **self._kwargs)


class _Connection(RequestHandler):
    """One connection: counted, and without a word in the log about what strangers send."""

    def __init__(
        self, server: Server, service: Service, loop: asyncio.AbstractEventLoop, **more: Any
    ) -> None:
        super().__init__(server, loop=loop, **more)
        self._service = service
        self._address = NOBODY
        self._stall: asyncio.TimerHandle | None = None  # while bytes wait for who asked

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Counts it, and cuts it where there are too many."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        text = str(peer[0]) if peer else NOBODY
        self._address = group(text)
        is_trusted = self._service.proxies.is_trusted(text)
        if not self._service.connections.enter(self._address, is_trusted=is_trusted):
            cast("asyncio.Transport", transport).abort()  # uvloop's is none by its class

    def connection_lost(self, exc: BaseException | None) -> None:
        """Gives its place back."""
        if self._manager is not None:  # else it was lost before
            self._service.connections.leave(self._address)
        self._watch(is_waiting=False)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Watches a reader for whom more waits than fits on the way."""
        super().pause_writing()
        self._watch(is_waiting=True)

    def resume_writing(self) -> None:
        """Watches no more."""
        self._watch(is_waiting=False)
        super().resume_writing()

    def _watch(self, *, is_waiting: bool) -> None:
        if self._stall is not None:
            self._stall.cancel()
        self._stall = None
        if is_waiting and (transport := self.transport) is not None:
            before = transport.get_write_buffer_size()
            self._stall = self._loop.call_later(STALL_S, self._look, transport, before)

    def _look(self, transport: asyncio.Transport, before: int) -> None:
        """Cuts a reader who has taken too little since the look before."""
        if before - transport.get_write_buffer_size() < STALL_S * SLOWEST:
            transport.abort()
        else:
            self._watch(is_waiting=True)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what is not HTTP, as a problem."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of another answer is sent already")
        if isinstance(exc, Exception) and status >= 500:
            error = self._service.excuse(exc, request)
        else:
            words = "the request is not HTTP as it should be, or larger than is taken here"
            error = RefusedError("bad-request", words)
        response = self._service.refuse(error)
        self._service.finish(response, "")
        response.force_close()
        return response
