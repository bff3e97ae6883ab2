"""A real WebSocket relay on loopback that obeys the protocol, but for the vices it is given.

It keeps every event that it accepts: it replaces, deletes and expires nothing.
"""

import asyncio
import json
import math
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from bigbrotr.nostr import negentropy
from tests.kit.events import is_valid, make_event, wire
from tests.kit.model import Event, Filter, Vices, matches, respond

AUTH = 22242


class Held(dict[str, Any]):
    """An event, with the bytes that stand for it on the wire."""

    def __init__(self, event: Mapping[str, Any] | bytes) -> None:
        super().__init__(json.loads(event) if isinstance(event, bytes) else event)
        self.raw = event if isinstance(event, bytes) else wire(event)


@dataclass
class Seen:
    """What a relay saw of its clients."""

    connections: int = 0
    most: int = 0  # connections at once
    filters: list[list[dict[str, Any]]] = field(default_factory=list)  # one list per REQ
    reconciliations: list[dict[str, Any]] = field(default_factory=list)  # filters of NEG-OPEN
    closed: list[str] = field(default_factory=list)  # subscriptions that the client closed
    shown: set[str] = field(default_factory=set)  # ids of the events of its own that were sent
    events: list[dict[str, Any]] = field(default_factory=list)  # received by EVENT, good or not
    headers: list[dict[str, str]] = field(default_factory=list)  # of each HTTP request
    bytes_in: int = 0
    bytes_out: int = 0


class ScriptedRelay:
    """`async with ScriptedRelay(events, vices) as relay:` serves on `relay.url` meanwhile.

    `vices` may be replaced at any time; it holds from the next frame on. `seen` counts.
    """

    def __init__(
        self,
        events: Iterable[Mapping[str, Any] | bytes] = (),
        vices: Vices | None = None,
        *,
        nip11: Mapping[str, Any] | bytes | None = None,
        paths: Mapping[str, Iterable[Mapping[str, Any] | bytes]] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.vices = vices or Vices()
        self.events = [Held(event) for event in events]
        # Where a path shows events of its own; any other shows `events`.
        self.paths = {path: [Held(each) for each in held] for path, held in (paths or {}).items()}
        self.nip11 = nip11
        self.seen = Seen()
        self.port = port
        self._host = host
        self._tls = tls
        # Bytes in place of an event: at the end of each answer about the second that they claim,
        # or (without one) of every answer.
        self.stray_frames: list[bytes] = []
        self.called = ""  # the URL by which others know it, where that differs
        self.at_question: Callable[[], None] = nothing  # called at each REQ and NEG-OPEN
        self.at_event: Callable[[], None] = nothing  # called at each EVENT, before it is answered
        self._talks: set[_Talk] = set()
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """Where to connect: ws://127.0.0.1:port, wss with TLS."""
        return f"{'wss' if self._tls else 'ws'}://{self._host}:{self.port}"

    @property
    def open_connections(self) -> int:
        """Connections at this moment: not those that their client has left while we were at an
        answer."""
        return sum(talk.socket.state is State.OPEN for talk in self._talks)

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._converse,
            self._host,
            self.port,
            ssl=self._tls,
            process_request=self._greet,
            compression=None,
            ping_interval=None,
            close_timeout=0.2,
            max_size=16 << 20,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for talk in list(self._talks):
            talk.cut()  # a client that never answers must not hold us up
        await self._server.wait_closed()

    async def add(self, event: Mapping[str, Any] | bytes) -> None:
        """Take an event and show it to every live subscription that it matches."""
        held = Held(event)
        if all(held["id"] != other["id"] for other in self.events):
            if not 20_000 <= held["kind"] < 30_000:
                self.events.append(held)
            for talk in list(self._talks):
                await talk.notify(held)

    async def show_late(self, event: Mapping[str, Any]) -> None:
        """Show an event to the first question that was closed."""
        for talk in list(self._talks):
            await talk.show(self.seen.closed[0], Held(event))

    def cut_all(self) -> None:
        """Cut every connection, without a closing handshake."""
        for talk in list(self._talks):
            talk.cut()

    def _greet(self, connection: ServerConnection, request: Request) -> Response | None:
        self.seen.headers.append(dict(request.headers.raw_items()))
        if self.nip11 is not None and "nostr+json" in request.headers.get("Accept", ""):
            body = self.nip11 if isinstance(self.nip11, bytes) else json.dumps(self.nip11).encode()
            response = connection.respond(200, "")
            response.body = body
            del response.headers["Content-Length"], response.headers["Content-Type"]
            response.headers["Content-Length"] = str(len(body))
            response.headers["Content-Type"] = "application/nostr+json"
            return response
        if self.vices.http_only or "Upgrade" not in request.headers:
            return connection.respond(200, "Use a Nostr client.\n")
        return None

    async def _converse(self, socket: ServerConnection) -> None:
        self.seen.connections += 1
        talk = _Talk(self, socket)
        self._talks.add(talk)
        self.seen.most = max(self.seen.most, self.open_connections)
        try:
            await talk.run()
        except ConnectionClosed:
            pass  # the client has gone, or a vice cut the line
        finally:
            self._talks.discard(talk)


class _Talk:
    """One connection: its subscriptions, and what it has been allowed."""

    def __init__(self, relay: ScriptedRelay, socket: ServerConnection) -> None:
        self.relay = relay
        self.socket = socket
        self.live: dict[str, list[Filter]] = {}
        self.requests = 0
        self.taken = 0  # events
        self.path = socket.request.path if socket.request else ""
        self.challenge = secrets.token_hex(8)
        self.reconciled: dict[str, negentropy.Server] = {}
        self.chatter: asyncio.Task[None] | None = None
        self.is_known = False  # authenticated

    @property
    def vices(self) -> Vices:
        return self.relay.vices

    def cut(self) -> None:
        self.socket.transport.abort()

    async def run(self) -> None:
        if self.vices.greets:
            await self.send(["NOTICE", self.vices.greets])
        if self.vices.needs_auth:
            await self.send(["AUTH", self.challenge])
        async for frame in self.socket:
            self.relay.seen.bytes_in += len(frame)
            most = self.vices.max_message_bytes
            if most is not None and len(frame) > most:
                await self.socket.close(1009, "message too big")
                return
            try:
                verb, *rest = json.loads(frame)
                known: Mapping[str, Callable[..., Any]] = {
                    "REQ": self.on_req,
                    "CLOSE": self.on_close,
                    "EVENT": self.on_event,
                    "AUTH": self.on_auth,
                    "COUNT": self.on_count,
                    **(self.reconciling() if self.vices.reconciles != "unknown" else {}),
                }
                handle = known[verb]
            except (ValueError, TypeError, KeyError):
                await self.send(["NOTICE", "error: cannot understand that"])
                continue
            await handle(*rest)

    # verbs

    async def on_req(self, sub: str, *filters: Filter) -> None:
        self.relay.seen.filters.append([dict(wanted) for wanted in filters])
        self.relay.at_question()
        self.requests += 1
        vices = self.vices
        self.live.pop(sub, None)
        if vices.delay_s:
            await asyncio.sleep(vices.delay_s)
        if vices.drop_after_pages is not None and self.requests > vices.drop_after_pages:
            self.cut()
        elif vices.silent:
            pass
        elif vices.needs_auth and not self.is_known:
            await self.send(["CLOSED", sub, "auth-required: who are you?"])
        elif vices.refuses_ids and any("ids" in wanted for wanted in filters):
            await self.send(["CLOSED", sub, "error: kinds are needed"])
        elif vices.most_limit and any(f.get("limit", 0) > vices.most_limit for f in filters):
            await self.send(["NOTICE", f"error: limit exceeds max_limit {vices.most_limit}"])
        elif vices.rate_limited_after is not None and self.requests > vices.rate_limited_after:
            await self.send(["CLOSED", sub, "rate-limited: slow down"])
        else:
            await self.reply(sub, filters, vices)

    async def on_close(self, sub: str) -> None:
        self.relay.seen.closed.append(sub)
        self.live.pop(sub, None)

    async def on_event(self, event: dict[str, Any]) -> None:
        self.relay.seen.events.append(event)
        self.relay.at_event()
        if self.vices.needs_auth and not self.is_known:
            await self.send(["OK", event.get("id"), False, "auth-required: who are you?"])
        elif not is_valid(event):
            await self.send(["OK", event.get("id"), False, "invalid: bad id or signature"])
        elif self.vices.says_no:
            await self.send(["OK", event["id"], False, self.vices.says_no])
        elif self.vices.forgets:
            await self.send(["OK", event["id"], True, ""])
        elif self.vices.takes is not None and self.taken >= self.vices.takes:
            await self.send(["OK", event["id"], False, "rate-limited: slow down"])
        elif any(event["id"] == held["id"] for held in self.relay.events):
            await self.send(["OK", event["id"], True, "duplicate: have it"])
        else:
            self.taken += 1
            await self.send(["OK", event["id"], True, ""])
            await self.relay.add(event)

    async def on_auth(self, event: dict[str, Any]) -> None:
        tags = {tuple(tag[:2]) for tag in event.get("tags", ())}
        relays = {tag[1].rstrip("/") for tag in tags if tag[0] == "relay"}
        is_ours = ("challenge", self.challenge) in tags and self.relay.url in relays
        self.is_known = event.get("kind") == AUTH and is_ours and is_valid(event)
        reason = "" if self.is_known else "invalid: not an answer to the challenge"
        await self.send(["OK", event.get("id"), self.is_known, reason])

    async def on_count(self, sub: str, *_: Filter) -> None:
        await self.send(["CLOSED", sub, "unsupported: no counting here"])

    # reconciliation

    def reconciling(self) -> Mapping[str, Callable[..., Any]]:
        return {
            "NEG-OPEN": self.on_neg_open,
            "NEG-MSG": self.on_neg_msg,
            "NEG-CLOSE": self.on_neg_close,
        }

    async def on_neg_open(self, sub: str, wanted: Filter, message: str) -> None:
        vices, seen = self.vices, self.relay.seen
        seen.reconciliations.append(dict(wanted))
        self.relay.at_question()
        found = [event for event in self.relay.events if matches(event, wanted)]
        if vices.reconciles == "silent":
            return
        if vices.reconciles == "cut":
            self.cut()
        elif vices.reconciles == "refused":
            await self.send(["NEG-ERR", sub, "error: no such thing"])
        elif vices.needs_auth and not self.is_known:
            await self.send(["NEG-ERR", sub, "auth-required: who are you?"])
        elif vices.most_items is not None and len(found) > vices.most_items:
            most = [vices.most_items] if vices.names_most else []
            await self.send(["NEG-ERR", sub, "blocked: too many records", *most])
        else:
            named = (event for event in found if event["id"] not in vices.hides)
            items = negentropy.Items(
                (event["created_at"], bytes.fromhex(event["id"])) for event in named
            )
            self.reconciled[sub] = negentropy.Server(items)
            await self.on_neg_msg(sub, message)

    async def on_neg_msg(self, sub: str, message: str) -> None:
        if self.vices.reconciles == "garbage":
            await self.send(["NEG-MSG", sub, "61" + "ff" * 20])
        elif self.vices.reconciles == "chatters":
            self.chatter = asyncio.create_task(self.chat(sub))
        elif self.vices.reconciles == "floods":
            parts = (b"\x02\0\x01" + secrets.token_bytes(16) for _ in range(24_000))
            await self.send(["NEG-MSG", sub, "61" + b"".join(parts).hex()])
        elif self.vices.reconciles == "always-equal":
            await self.send(["NEG-MSG", sub, "61"])
        else:
            answer = self.reconciled[sub].reconcile(bytes.fromhex(message))
            await self.send(["NEG-MSG", sub, answer.hex()])

    async def chat(self, sub: str) -> None:
        while sub in self.reconciled:
            await self.send(["NOTICE", "one moment"])
            await asyncio.sleep(0.05)

    async def on_neg_close(self, sub: str) -> None:
        self.reconciled.pop(sub, None)

    # answers

    async def reply(self, sub: str, filters: tuple[Filter, ...], vices: Vices) -> None:
        events = self.relay.paths.get(self.path, self.relay.events)
        held = [event for event in events if event["id"] not in vices.withholds]
        replies = [respond(held, wanted, vices) for wanted in filters]
        await asyncio.sleep(max((reply.elapsed_s for reply in replies), default=0.0))
        await self.litter(sub, vices)
        late: list[Event] = []
        for reply in replies:
            page = [*forge(reply.events, vices), *reply.events]
            in_time = len(page) - round(vices.late * len(page))
            late += page[in_time:]
            for event in page[:in_time]:
                if "copy" in vices.forged:  # with another signature, ahead of the right one
                    await self.show(sub, {**event, "sig": "0" * 128})
                await self.show(sub, event)
        for raw in self.relay.stray_frames:
            at = json.loads(raw).get("created_at")
            wanted = filters[0]
            until = wanted.get("until", math.inf)
            if not isinstance(at, int) or wanted.get("since", 0) <= at <= until:
                await self.send_text(f'["EVENT",{json.dumps(sub)},{raw.decode()}]')
        ends = {reply.end: reply for reply in replies}
        if "drop" in ends:
            self.cut()
        elif "closed" in ends:
            await self.send(["CLOSED", sub, ends["closed"].reason])
        elif "silence" not in ends:
            hints: list[Any] = [reply.hints for reply in replies if reply.hints]
            if vices.eose_words and not any(reply.events for reply in replies):
                hints = [vices.eose_words]
            await self.send(["EOSE", sub, *hints[:1]])
            self.live[sub] = list(filters)
            for event in late:
                await self.show(sub, event)

    async def notify(self, event: Held) -> None:
        for sub, filters in list(self.live.items()):
            if any(matches(event, wanted) for wanted in filters):
                try:
                    await self.show(sub, event)
                except ConnectionClosed:
                    return  # its own task notices, too

    async def litter(self, sub: str, vices: Vices) -> None:
        """Frames that no relay should send."""
        if "not-json" in vices.garbage:
            for text in ("", "nonsense", '["EVENT","', "\x00", "[" * 2000):
                await self.send_text(text)
        if "wrong-shape" in vices.garbage:
            shapes: list[Any] = [{}, [], None, 7, "EOSE", ["EVENT"], ["EVENT", sub], ["EOSE"]]
            shapes += [["EVENT", sub, 7], ["EVENT", sub, {}], ["EVENT", 7, {}], ["WHAT", sub]]
            shapes += [[None, sub], ["OK"], ["CLOSED"], ["NOTICE", {}], ["EOSE", "another"]]
            for shape in shapes:
                await self.send(shape)
        if "binary" in vices.garbage:
            await self.socket.send(b"\xff\xfe\x00binary")
        if "huge" in vices.garbage:
            await self.send(["NOTICE", "x" * vices.huge_bytes])
        if "endless" in vices.garbage:
            await self.socket.send(endless())

    async def show(self, sub: str, event: Event) -> None:
        raw = event.raw if isinstance(event, Held) else wire(event)
        if isinstance(event, Held):
            self.relay.seen.shown.add(event["id"])
        await self.send_text(f'["EVENT",{json.dumps(sub)},{raw.decode()}]')
        if self.vices.drip_s and not self.vices.drips_bytes:
            await asyncio.sleep(self.vices.drip_s)

    async def send(self, message: Any) -> None:
        await self.send_text(json.dumps(message))

    async def send_text(self, text: str) -> None:
        self.relay.seen.bytes_out += len(text)
        if self.vices.drips_bytes:
            await self.socket.send(slowly(text, self.vices.drip_s))
        else:
            await self.socket.send(text)


def nothing() -> None:
    """What happens at a question, unless a test wants something."""


async def endless() -> AsyncIterator[str]:
    """One message that goes on for as long as the client listens."""
    yield '["NOTICE","'
    while True:
        yield "x" * 65536
        await asyncio.sleep(0)


async def slowly(text: str, pause_s: float) -> AsyncIterator[str]:
    """One message, a character at a time."""
    for character in text:
        yield character
        await asyncio.sleep(pause_s)


def forge(page: list[Event], vices: Vices) -> list[Event]:
    """Events that look as if they belonged to this page, and must not be believed."""
    if not page or not vices.forged:
        return []
    first = page[0]
    forged: list[Event] = []
    if "id" in vices.forged:  # an id that is not the hash
        forged.append({**first, "id": first["id"][::-1]})
    if "content" in vices.forged:  # the id of a real event around other words
        forged.append({**first, "content": f"{first['content']} (forged)"})
    if "signature" in vices.forged:  # a right id that nobody signed
        unsigned = make_event(first["created_at"], first["kind"], first["tags"], "forged", key=99)
        forged.append({**unsigned, "sig": first["sig"]})
    if "type" in vices.forged:
        forged.append({**first, "created_at": str(first["created_at"])})
        forged.append({**first, "kind": 1.5})
        forged.append({**first, "tags": {"e": 1}})
        forged.append({**first, "content": None})
        forged.append({**first, "pubkey": first["pubkey"].upper()})
        forged.append({**first, "sig": first["sig"][:-2]})
        forged.append({name: first[name] for name in first if name != "sig"})
    return forged
