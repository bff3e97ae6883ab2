"""Lets tools of the operator take events and authors down over HTTP: NIP-86, signed by NIP-98."""

import asyncio
import base64
import binascii
import hashlib
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import msgspec
from aiohttp import hdrs, web
from msgspec import Struct

from bigbrotr.config.settings import Limits, Retry
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.policy import Takedown
from bigbrotr.core.pool import Pool
from bigbrotr.models.event import Event
from bigbrotr.models.policy import urls_of
from bigbrotr.models.target import What
from bigbrotr.serve.orders import Order

TYPE = "application/nostr+json+rpc"
AUTHORIZATION = 27235  # the kind of NIP-98
APART_S = 60  # that the clocks of a tool and ours may differ by
MAX_BODY = 16_384  # bytes of a call
MAX_HEADER = 16_384  # characters of an authorization
BODY_S = 10.0  # for a body to come
MAX_WHY = 1000  # characters of a reason
NO_REASON = "no reason given"
METHODS: dict[str, What | None] = {  # and what their first parameter is
    "supportedmethods": None,
    "banpubkey": "pubkey",
    "unbanpubkey": "pubkey",
    "listbannedpubkeys": None,
    "banevent": "event",
    "unbanevent": "event",
    "allowevent": "event",
    "listbannedevents": None,
}


# What a page of another site is told that it may send.
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS, POST",
    "Access-Control-Allow-Headers": "Accept, Authorization, Content-Type, If-None-Match",
}


class Call(Struct, frozen=True):
    """What is asked for."""

    method: str
    params: list[Any] = []


class UnauthorizedError(Exception):
    """A call is not signed as it should be, or by nobody who may."""


class Management:
    """Answers calls of the operators whose keys are `[policy] admins`. Its sessions write; there is
    one at most, and none before the first call."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.preflight = PREFLIGHT if order.config.policy.admins else {}
        self._admins = frozenset(order.config.policy.admins)
        self._urls = sorted(urls_of(order.config.serve.public_url))
        self._turn = asyncio.Lock()

    def is_meant(self, request: web.BaseRequest) -> bool:
        """Whether a request is a call."""
        kind = request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
        return bool(self._admins) and request.method == "POST" and kind == TYPE

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Does what a call asks for, and answers it."""
        async with asyncio.timeout(BODY_S):
            body = await request.content.read(MAX_BODY + 1)
            while len(body) <= MAX_BODY and not request.content.at_eof():
                body += await request.content.read(MAX_BODY + 1 - len(body))
        try:
            admin = authorized(
                request.headers,
                body,
                hosts=self._hosts(request),
                admins=self._admins,
                now=time.time(),
            )
        except UnauthorizedError as error:
            return _reply(401, error=f"unauthorized: {error}")
        try:
            return _reply(200, result=await self._do(_call_in(body), admin))
        except ValueError as error:
            return _reply(200, error=str(error))
        except asyncpg.ReadOnlySQLTransactionError:
            return _reply(200, error="nothing can be changed in this copy of the archive")

    def _hosts(self, request: web.BaseRequest) -> set[str]:
        """Where we are, as a signature may say. Without a public URL, what the request calls us was
        let in by the guard."""
        public_url = self._order.config.serve.public_url
        return {request.host.lower() if public_url is None else urlsplit(public_url).netloc.lower()}

    async def _do(self, call: Call, admin: str) -> Any:
        """The result of a call.

        Raises:
            ValueError: it asks for what cannot be.
        """
        if call.method not in METHODS:
            raise ValueError(f"there is no such method; there are {', '.join(METHODS)}")
        if call.method == "supportedmethods":
            return list(METHODS)
        async with self._turn, self._brotr() as brotr:
            if call.method.startswith("list"):
                return listed(await brotr.takedowns(), call.method)
            what = METHODS[call.method]
            assert what is not None
            target, why = _target_in(call)
            if call.method.startswith("ban"):
                await brotr.take_down(what, target, why=why, who=admin, urls=self._urls)
            else:
                await brotr.undo_takedown(what, target, why=why, who=admin, urls=self._urls)
            if what == "pubkey":  # the first of their events here, the others by the service
                await brotr.judge_review(self._urls, of_author=target)
            return True

    @asynccontextmanager
    async def _brotr(self) -> AsyncIterator[Brotr]:
        config = self._order.config
        settings = msgspec.structs.replace(
            config.pool, limits=Limits(min_size=1, max_size=1), retry=Retry(max_attempts=1)
        )
        async with Brotr(Pool(config.database, settings, dsn=self._order.dsn)) as brotr:
            yield brotr


def authorized(
    headers: Mapping[str, str],
    body: bytes,
    *,
    hosts: Collection[str],
    admins: Collection[str],
    now: float,
) -> str:
    """The public key (hex) of the operator who has signed a call. `hosts`: host and port by which
    we may be called, in lower case.

    Raises:
        UnauthorizedError: it is not signed, for another call, or by somebody else.
    """
    scheme, _, text = headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() != "nostr" or not text or len(text) > MAX_HEADER:
        raise UnauthorizedError('sign the call: "Authorization: Nostr …" (NIP-98)')
    try:
        event = Event.from_json(base64.b64decode(text.strip(), validate=True))
    except (binascii.Error, ValueError) as error:
        raise UnauthorizedError(f"what signs it is no event: {error}") from None
    tags = {tag[0]: tag[1] for tag in reversed(event.tags) if len(tag) > 1}
    if event.kind != AUTHORIZATION:
        raise UnauthorizedError(f"what signs it is of kind {event.kind}, not {AUTHORIZATION}")
    if abs(event.created_at - now) > APART_S:
        raise UnauthorizedError(f"it was signed more than {APART_S} seconds from now")
    if tags.get("method", "").upper() != "POST":
        raise UnauthorizedError("another method than POST is signed")
    if netloc_of(tags.get("u", "")) not in hosts:
        raise UnauthorizedError(f"it is signed for another address than {', '.join(hosts)}")
    if len(body) > MAX_BODY:
        raise UnauthorizedError(f"a call has {MAX_BODY:,} bytes at most")
    if tags.get("payload", "").lower() != hashlib.sha256(body).hexdigest():
        raise UnauthorizedError("another body is signed (tag payload)")
    if (pubkey := event.pubkey.hex()) not in admins:
        raise UnauthorizedError("this key may not manage the archive: see [policy] admins")
    return pubkey


def netloc_of(url: str) -> str:
    """Host and port of the URL of a relay, in lower case; empty: it is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts.netloc.lower() if parts.scheme in ("http", "https", "ws", "wss") else ""


def listed(log: Sequence[Takedown], method: str) -> list[dict[str, str]]:
    """What is taken down now, as the methods that list it answer."""
    what, name = ("pubkey", "pubkey") if method == "listbannedpubkeys" else ("event", "id")
    return [
        {name: each.target.hex(), "reason": each.why}
        for each in log
        if each.what == what and each.undone_at is None
    ]


def _call_in(body: bytes) -> Call:
    try:
        return msgspec.json.decode(body, type=Call)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(f"this is no call: {error}") from None


def _target_in(call: Call) -> tuple[bytes, str]:
    """The id or key that a call names, and why."""
    key, why = ([*call.params, None, None])[:2]
    try:
        target = bytes.fromhex(key) if isinstance(key, str) and len(key) == 64 else b""
    except ValueError:
        target = b""
    if len(target) != 32:
        raise ValueError(f"{call.method} takes 64 hex digits and, perhaps, a reason")
    if why is not None and (not isinstance(why, str) or len(why) > MAX_WHY or "\0" in why):
        raise ValueError(f"the reason is a text of {MAX_WHY:,} characters at most")
    return target, (why or "").strip() or NO_REASON


def _reply(status: int, *, result: Any = None, error: str | None = None) -> web.Response:
    told = {"result": result} if error is None else {"error": error}
    headers = {"Content-Type": TYPE, "Cache-Control": "no-store"}
    return web.Response(status=status, body=msgspec.json.encode(told), headers=headers)
