"""Verifies stored events, in a process beside: ids, signatures, and what is derived of them."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg
import msgspec
from msgspec import Struct

from bigbrotr.config.settings import Config
from bigbrotr.core.calls.base import call_of
from bigbrotr.core.calls.event_rows import LAST_SLICE, WEEK_S
from bigbrotr.core.pool import Pool
from bigbrotr.errors import DatabaseError, leaves
from bigbrotr.models import signatures
from bigbrotr.models.event import storable, tag_hashes
from bigbrotr.transfer.process import begin

PAGE = 1000  # events that are read at once
TOLD = 10  # events of each kind of damage that are named
PAGE_S = 600.0
ERASED = -1  # as a kind

_encode = msgspec.json.Encoder().encode
_decode_tags = msgspec.json.Decoder(tuple[tuple[str, ...], ...]).decode
# Unescaped control characters are no JSON, but Python can be asked to read them.
_decode_raw = json.JSONDecoder(strict=False).decode

Tags = tuple[tuple[str, ...], ...]


class Span(NamedTuple):
    """A stretch of time, both ends included (Unix seconds)."""

    since: int
    until: int


class Looked(Struct):
    """What was found in some events."""

    events: int = 0
    erased: int = 0  # of them, nothing is left to verify
    wrong: dict[str, int] = {}  # by what is wrong
    first: dict[str, list[str]] = {}  # ids in hex
    mended: int = 0

    def note(self, what: str, event_id: bytes) -> None:
        """Notes an event that is damaged."""
        self.wrong[what] = self.wrong.get(what, 0) + 1
        known = self.first.setdefault(what, [])
        if len(known) < TOLD:
            known.append(event_id.hex())

    def add(self, other: "Looked") -> None:
        """Adds another one."""
        self.events += other.events
        self.erased += other.erased
        self.mended += other.mended
        for what, count in other.wrong.items():
            self.wrong[what] = self.wrong.get(what, 0) + count
            self.first[what] = [*self.first.get(what, []), *other.first[what]][:TOLD]


class EventVerifier:
    """Verifies events that are stored. `is_whole`: the profile keeps tags, contents and
    signatures; `mends`: what is derived is derived again."""

    def __init__(self, pool: Pool, *, is_whole: bool, mends: bool = False) -> None:
        self._pool, self._is_whole, self._mends = pool, is_whole, mends

    async def look(self, span: Span) -> Looked:
        """Looks at all events of a stretch of time."""
        await self._pool.connect()  # the first time
        looked = Looked()
        at, event_id = span.since, b""
        while True:
            arguments = {
                "p_since": at,
                "p_until": span.until,
                "p_after_at": at,
                "p_after_id": event_id,
                "p_limit": PAGE,
            }
            rows = await self._pool.fetch(
                call_of("verify_rows", *arguments), *arguments.values(), timeout=PAGE_S
            )
            if not rows:
                return looked
            await self._judge(rows, looked)
            at, event_id = rows[-1]["created_at"], rows[-1]["id"]

    async def _judge(self, rows: Sequence[Any], looked: Looked) -> None:
        claims: list[tuple[bytes, bytes]] = []
        unindexed: list[tuple[int, bytes, list[int]]] = []
        looked.events += len(rows)
        for row in rows:
            event_id = row["id"]
            if row["slice"] != min(row["created_at"] // WEEK_S, LAST_SLICE):
                looked.note("the number of the week is not that of created_at", event_id)
            if len(event_id) != 32 or len(row["pubkey"]) != 32:
                looked.note("id or pubkey has not 32 bytes", event_id)
            elif row["kind"] == ERASED:
                looked.erased += 1
            elif self._is_whole:
                tags = self._verify_id(row, looked)
                if tags is None:
                    continue
                claims.append((event_id, row["sig"] + event_id + row["pubkey"]))
                hashes = tag_hashes(tags)
                if (row["tag_hashes"] or []) != hashes:
                    looked.note("the index of tags has others than the event", event_id)
                    unindexed.append((row["created_at"], event_id, hashes))
        verdicts = signatures.here.judge(b"".join(claim for _, claim in claims))
        for (event_id, _), is_right in zip(claims, verdicts, strict=True):
            if not is_right:
                looked.note("the signature is wrong", event_id)
        if self._mends and unindexed:
            await self._index(unindexed, looked)

    def _verify_id(self, row: Any, looked: Looked) -> Tags | None:
        """Returns the tags of an event whose bytes hash to its id; else notes what is wrong."""
        if row["tags"] is None or row["content"] is None or row["sig"] is None:
            looked.note("tags, content or signature are missing", row["id"])
            return None
        if len(row["sig"]) != 64:
            looked.note("the signature is wrong", row["id"])
            return None
        head = f'[0,"{row["pubkey"].hex()}",{row["created_at"]},{row["kind"]},'
        content = _encode(row["content"])
        hashed = row["raw"] or b"%b%b,%b]" % (head.encode(), row["tags"].encode(), content)
        if hashlib.sha256(hashed).digest() != row["id"]:
            looked.note("the bytes do not hash to the id", row["id"])
            return None
        try:
            tags = _decode_tags(row["tags"])
        except msgspec.DecodeError:
            looked.note("the tags are no JSON", row["id"])
            return None
        if row["raw"] is not None and not _is_of(row, tags):
            looked.note("the columns are not those of the exact bytes", row["id"])
            return None
        return tags

    async def _index(self, unindexed: list[tuple[int, bytes, list[int]]], looked: Looked) -> None:
        """Derives the tag hashes of events again."""
        ends, hashes = [], list[int]()
        for _, _, some in unindexed:
            hashes += some
            ends.append(len(hashes))
        arguments = {
            "p_created_ats": [at for at, _, _ in unindexed],
            "p_ids": [event_id for _, event_id, _ in unindexed],
            "p_tag_hashes": hashes,
            "p_tag_ends": ends,
        }
        looked.mended += await self._pool.fetchval(
            call_of("mend_hashes", *arguments), *arguments.values()
        )


def _is_of(row: Any, tags: Tags) -> bool:
    """Whether the columns hold the nearest text to the exact bytes."""
    try:
        fields = _decode_raw(row["raw"].decode())
        pubkey, at, kind, raw_tags, content = fields[1:]
        stored = tuple(tuple(storable(item) for item in tag) for tag in raw_tags)
        key = (row["pubkey"].hex(), row["created_at"], row["kind"])
        return (pubkey, at, kind) == key and (stored, storable(content)) == (tags, row["content"])
    except (ValueError, TypeError):
        return False


_runner: asyncio.Runner | None = None
_verifier: EventVerifier | None = None


def start_verifier(
    config: Config, dsn: str | None, parent: int, is_whole: bool, mends: bool
) -> None:
    """Makes this process a worker of `parent`: called once in it."""
    global _runner, _verifier  # the process is the object
    _runner, pool = begin(config, dsn, parent)
    _verifier = EventVerifier(pool, is_whole=is_whole, mends=mends)


def look_at(span: Span) -> Looked:
    """Looks at a stretch of time in this process.

    Raises:
        DatabaseError: the database went away.
    """
    assert _runner is not None
    assert _verifier is not None
    try:
        return _runner.run(_verifier.look(span))
    except* (
        OSError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
    ) as group:
        lost = leaves(group)[0]
    raise DatabaseError(f"verify: {lost}") from lost
