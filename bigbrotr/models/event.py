"""An event: how its id is computed, how its signature is verified, and the value that is both."""

import hashlib
import json
import re
import string
from binascii import unhexlify
from functools import lru_cache
from typing import Self
from zlib import crc32

import msgspec
from coincurve import PublicKeyXOnly

from bigbrotr.models.relay import Relay, check_seconds

MAX_CREATED_AT = 2**63 - 1  # PostgreSQL's bigint; NIP-01 names no bound
MAX_SEEN_AT = 2**31 - 1 + 1_577_836_800  # presence keeps it in four bytes, from 2020 on
MAX_KIND = 65535
TAG_HASHES = 5000  # of an event that are indexed: an entry takes more than it has on the wire
HASH_SHIFT = 2**31  # from a CRC-32 to PostgreSQL's integer

# Tags as the archive keeps them: JSON text, of events that were valid.
decode_tags = msgspec.json.Decoder(list[list[str]]).decode


class WireEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as it came over the wire; tags and content are left as slices of the frame.

    Nothing is verified yet but the JSON types of the fields.
    """

    id: str
    pubkey: str
    created_at: int
    kind: int
    tags: msgspec.Raw
    content: msgspec.Raw
    sig: str


class _Fields(msgspec.Struct):
    """The same, decoded whole; in the order of `Event`'s fields."""

    id: str
    pubkey: str
    created_at: int
    kind: int
    tags: tuple[tuple[str, ...], ...]
    content: str
    sig: str


# The names of tags that the index holds, and the hash of what precedes a value.
_BEGUN = {letter: crc32(f"{letter}:".encode()) for letter in string.ascii_letters}

_wire_decoder = msgspec.json.Decoder(WireEvent)
_tags_decoder = msgspec.json.Decoder(tuple[tuple[str, ...], ...])
_content_decoder = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode

_BACKSLASH = ord("\\")  # as a number: looking for bytes in bytes takes ten times as long

# What PostgreSQL's text and jsonb cannot hold.
_unstorable = re.compile("[\x00\ud800-\udfff]")
_surrogate = re.compile("[\ud800-\udfff]")
_unstorable_code = re.compile(rb"\\u(?:0000|d[89a-f])").search  # the same, escaped
_escaped_control = re.compile(rb"(?<!\\)((?:\\\\)*)\\(?:u00([01][0-9a-f])|([bf]))")


def preimage(pubkey: bytes, created_at: int, kind: int, tags: bytes, content: bytes) -> bytes:
    """The bytes whose SHA-256 is an event's id (NIP-01); `pubkey` is 64 lower-case hex digits.

    `tags` and `content` are their JSON texts.
    """
    return b'[0,"%b",%d,%d,%b,%b]' % (pubkey, created_at, kind, tags, content)


def wire_id(wire: WireEvent) -> bytes | None:
    """The id (32 bytes) when the event's bytes hash to it just as they came, else None.

    None decides nothing: the sender may have escaped or spaced the JSON in another way.
    """
    head = f'[0,"{wire.pubkey}",{wire.created_at},{wire.kind},'.encode()
    hashed = b"".join((head, wire.tags, b",", wire.content, b"]"))  # as `preimage`, copied once
    digest = hashlib.sha256(hashed).digest()
    return digest if digest.hex() == wire.id else None


@lru_cache(maxsize=4096)
def _public_key(pubkey: bytes) -> PublicKeyXOnly | None:
    """A parsed public key; parsing costs as much as a tenth of a verification."""
    try:
        return PublicKeyXOnly(pubkey)
    except ValueError:
        return None  # no point of the curve has this x


def is_signed(event_id: bytes, pubkey: bytes, sig: bytes) -> bool:
    """Whether `sig` is the BIP-340 signature (64 bytes) of `event_id` by `pubkey` (32 each)."""
    key = _public_key(pubkey)
    return key is not None and key.verify(sig, event_id)


def tag_hashes(tags: tuple[tuple[str, ...], ...]) -> list[int]:
    """What the index holds of tags: a hash of 'e:…' per single-letter tag (see `tag_hash`), each
    once, of the first 5,000 of them."""
    hashes = [
        crc32(tag[1].encode(), start) - HASH_SHIFT
        for tag in tags
        if len(tag) > 1 and (start := _BEGUN.get(tag[0])) is not None
    ]
    return list(dict.fromkeys(hashes[:TAG_HASHES])) if len(hashes) > 1 else hashes


def tag_hash(letter: str, value: str) -> int:
    """The hash of a tag in the index, as PostgreSQL's integer: two values may share one."""
    return crc32(f"{letter}:{value}".encode()) - HASH_SHIFT


def storable(text: str) -> str:
    """`text` as PostgreSQL can hold it: U+0000 and lone surrogates become U+FFFD."""
    return _unstorable.sub("\ufffd", text)


class Event(msgspec.Struct, frozen=True, eq=False, gc=False):
    """An event whose id and signature are verified: a wrong one cannot be made.

    `id` and `pubkey` are 32 bytes, `sig` 64; `created_at` is Unix seconds.

    `raw` is set for the rare event that `tags` and `content` cannot reproduce once they have
    been in a database (U+0000, lone surrogates, control characters that were hashed unescaped):
    the exact bytes that were hashed.

    Raises:
        ValueError: with a short reason, stable enough to count by: `malformed: …`, `bad id`,
            `bad signature`.
    """

    id: bytes
    pubkey: bytes
    created_at: int
    kind: int
    tags: tuple[tuple[str, ...], ...]
    content: str
    sig: bytes
    raw: bytes | None = None

    def __post_init__(self) -> None:
        raw: object = self.raw
        if type(raw) is _Proven:  # made by `Unsigned`, after the same checks
            msgspec.structs.force_setattr(self, "raw", raw.raw)
            return
        _check_shape(self)
        hashed, is_verbatim = _hashed_bytes(self)
        if self.raw is not None and self.raw != hashed:
            raise ValueError("malformed: raw is not what was hashed")
        if not is_signed(self.id, self.pubkey, self.sig):
            raise ValueError("bad signature")
        if self.raw is None and (is_verbatim or not _is_reproducible(self, hashed)):
            msgspec.structs.force_setattr(self, "raw", hashed)

    @classmethod
    def from_json(cls, text: bytes | str) -> "Event":
        """The event in a JSON object; other fields than NIP-01's are left out."""
        try:
            return cls.from_wire(_wire_decoder.decode(text))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return cls.from_object(decode_loosely(text))

    @classmethod
    def from_wire(cls, wire: WireEvent) -> "Event":
        """The event in a decoded frame."""
        found = decode(identify(wire))
        return found.event(is_signed=is_signed(found.id, found.pubkey, found.sig))

    @classmethod
    def from_object(cls, value: object) -> Self:
        """The event in decoded JSON, which may hold lone surrogates."""
        try:
            fields = msgspec.convert(value, _Fields)
        except msgspec.ValidationError as error:
            raise ValueError(f"malformed: {error}") from None
        key, author, signed = _unhexed(fields.id, fields.pubkey, fields.sig)
        return cls(key, author, fields.created_at, fields.kind, fields.tags, fields.content, signed)

    @property
    def claim(self) -> bytes:
        """What was verified: 64 bytes of the signature, 32 of the id, 32 of the key."""
        return self.sig + self.id + self.pubkey

    def to_json(self) -> str:
        """The event as one JSON object; it hashes to `id` wherever it is read."""
        fields = {
            "id": self.id.hex(),
            "pubkey": self.pubkey.hex(),
            "created_at": self.created_at,
            "kind": self.kind,
            "tags": self.tags,
            "content": self.content,
            "sig": self.sig.hex(),
        }
        return _escape_surrogates(json.dumps(fields, ensure_ascii=False, separators=(",", ":")))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)


class _Proven:
    """In place of an event's `raw`: says that all is proven, and what `raw` is."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes | None) -> None:
        self.raw = raw


_PLAIN = _Proven(None)


class Identified(msgspec.Struct, frozen=True, gc=False):
    """An event on the wire whose bytes hash to its id (32 bytes): `identify` makes it."""

    id: bytes
    wire: WireEvent


class Unsigned(msgspec.Struct, frozen=True, gc=False):
    """An event whose id is proven, and whose signature is to be verified: `decode` makes it.

    The fields are those of `Event`.
    """

    id: bytes
    pubkey: bytes
    created_at: int
    kind: int
    tags: tuple[tuple[str, ...], ...]
    content: str
    sig: bytes
    raw: bytes | None = None

    @property
    def claim(self) -> bytes:
        """What there is to verify: 64 bytes of the signature, 32 of the id, 32 of the key."""
        return self.sig + self.id + self.pubkey

    def event(self, *, is_signed: bool) -> Event:
        """The event, if `is_signed` (the function) says of its signature that it is right.

        Raises:
            ValueError: bad signature.
        """
        if not is_signed:
            raise ValueError("bad signature")
        raw = _PLAIN if self.raw is None else _Proven(self.raw)
        return Event(
            *(self.id, self.pubkey, self.created_at, self.kind, self.tags, self.content, self.sig),
            raw,  # type: ignore[arg-type]
        )


def decode_identified(wire: WireEvent) -> Unsigned:
    """Decodes an event whose bytes hash to its id.

    Raises:
        ValueError: it is no valid event.
    """
    return _decode(wire, is_identified=True)


def identify(wire: WireEvent) -> Identified | Unsigned:
    """Proves an event's id: cheaply when its bytes hash to it, else by decoding it.

    Raises:
        ValueError: it is no valid event.
    """
    if (event_id := wire_id(wire)) is None:
        return _decode(wire)
    if not 0 <= wire.created_at <= MAX_CREATED_AT:
        raise ValueError("malformed: created_at out of range")
    return Identified(event_id, wire)


def decode(found: Identified | Unsigned) -> Unsigned:
    """Decodes what an event says.

    Raises:
        ValueError: it is no valid event.
    """
    return found if isinstance(found, Unsigned) else decode_identified(found.wire)


def _decode(wire: WireEvent, *, is_identified: bool = False) -> Unsigned:
    """Decodes an event, and proves its id unless its bytes hash to it."""
    try:
        tags = _tags_decoder.decode(wire.tags)
        content = _content_decoder.decode(wire.content)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(f"malformed: {error}") from None
    key, author, sig = _unhexed(wire.id, wire.pubkey, wire.sig)
    event = Unsigned(key, author, wire.created_at, wire.kind, tags, content, sig)
    _check_shape(event)
    if is_identified and _is_plain(wire, event):
        return event
    raw = _raw_of(event)
    return event if raw is None else msgspec.structs.replace(event, raw=raw)


def _is_plain(wire: WireEvent, event: Unsigned) -> bool:
    """Whether an event came in the very bytes in which we write it, and a database can hold it."""
    if event.pubkey.hex() != wire.pubkey:
        return False
    content = bytes(wire.content)
    if _BACKSLASH in content and (_unstorable_code(content) or _encode(event.content) != content):
        return False
    tags = bytes(wire.tags)
    # Without white space and escapes, there is but one way to write it.
    if _BACKSLASH in tags or len(tags.split(None, 1)) != 1:
        return not _unstorable_code(tags) and _encode(event.tags) == tags
    return True


class EventRelay(msgspec.Struct, frozen=True):
    """An event, a relay that holds it, and when it was seen there (Unix seconds, before 2088)."""

    event: Event
    relay: Relay
    seen_at: int

    def __post_init__(self) -> None:
        check_seconds("seen_at", self.seen_at)
        if self.seen_at > MAX_SEEN_AT:
            raise ValueError(f"seen_at must be in seconds, before 2088, not {self.seen_at}")


def _unhexed(event_id: str, pubkey: str, sig: str) -> tuple[bytes, bytes, bytes]:
    try:
        return unhexlify(event_id), unhexlify(pubkey), unhexlify(sig)
    except ValueError:
        raise ValueError("malformed: id, pubkey and sig are hexadecimal") from None


def _check_shape(event: Event | Unsigned) -> None:
    if not 0 <= event.created_at <= MAX_CREATED_AT:
        raise ValueError("malformed: created_at out of range")
    if not 0 <= event.kind <= MAX_KIND:
        raise ValueError("malformed: kind out of range")
    if len(event.id) != 32 or len(event.pubkey) != 32 or len(event.sig) != 64:
        raise ValueError("malformed: id and pubkey have 32 bytes, sig has 64")
    if not all(event.tags):
        raise ValueError("malformed: empty tag")


def decode_loosely(text: bytes | str) -> object:
    """Any JSON, with the lone surrogates that JavaScript writes and stricter decoders refuse.

    Raises:
        ValueError: it is not JSON, or not UTF-8, or nested too deeply.
    """
    try:
        # Decoded here: Python's own guess would let UTF-16 through, and raw surrogates.
        return json.loads(text.decode() if isinstance(text, bytes) else text)
    except (ValueError, RecursionError):
        raise ValueError("malformed: not JSON") from None


def _raw_of(event: Event | Unsigned) -> bytes | None:
    """Proves the id of an event; returns what was hashed where its columns do not give it back."""
    hashed, is_verbatim = _hashed_bytes(event)
    return hashed if is_verbatim or not _is_reproducible(event, hashed) else None


def _hashed_bytes(event: Event | Unsigned) -> tuple[bytes, bool]:
    """The serialisation that hashes to the event's id, and whether it has verbatim controls.

    NIP-01 writes control characters verbatim, most implementations as \\u00XX; lone surrogates
    stay escaped, as in JavaScript.
    """
    escaped = _serialise(event, event.tags, event.content)
    if hashlib.sha256(escaped).digest() == event.id:
        return escaped, False
    if _BACKSLASH in escaped:
        verbatim = _escaped_control.sub(_unescape_control, escaped)
        if hashlib.sha256(verbatim).digest() == event.id:
            return verbatim, True
    raise ValueError("bad id")


def _serialise(event: Event | Unsigned, tags: tuple[tuple[str, ...], ...], content: str) -> bytes:
    """The JSON that is hashed, if the event had these tags and this content."""
    fields = (0, event.pubkey.hex(), event.created_at, event.kind, tags, content)
    try:
        return _encode(fields)
    except UnicodeEncodeError:
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        return _escape_surrogates(text).encode()


def _escape_surrogates(text: str) -> str:
    return _surrogate.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _unescape_control(match: re.Match[bytes]) -> bytes:
    backslashes, code, letter = match.groups()
    if letter:
        return match[0]  # \b and \f are escapes in every implementation
    return bytes(backslashes) + bytes([int(code, 16)])


def _is_reproducible(event: Event | Unsigned, hashed: bytes) -> bool:
    """Whether the columns of a database give back the bytes that were hashed."""
    if _BACKSLASH not in hashed or not _unstorable_code(hashed):
        return True  # nothing that text or jsonb would change
    tags = tuple(tuple(storable(item) for item in tag) for tag in event.tags)
    return hashed == _serialise(event, tags, storable(event.content))
