"""Damaged frames through the way that every frame takes: decoded, sifted, verified.

Real frames of all types are flipped, cut, spliced, nested, re-escaped, and their events changed in
one field. Nothing may be accepted but what was signed, as it was signed; nostr-sdk is asked for a
second opinion on all that is. Nothing may raise but what is documented. Where C says something of a
frame, it is what Python says of it, to the last byte of its row.
"""

import asyncio
import hashlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import nostr_sdk

from bigbrotr.config.settings import SynchronizerSettings
from bigbrotr.core.calls import event_rows
from bigbrotr.core.calls.event_rows import Rows, make_rows
from bigbrotr.models.burst import Burst
from bigbrotr.models.columns import Columns, Found
from bigbrotr.models.event import Event, Unsigned, WireEvent, decode, identify
from bigbrotr.models.mentions import mentioned
from bigbrotr.models.plain import Heard, Plain, Scan, unpacked
from bigbrotr.net.frames import Oversized
from bigbrotr.nostr import message
from bigbrotr.nostr.message import EventMessage, Malformed, TooLarge
from bigbrotr.nostr.questions import End, Question
from bigbrotr.nostr.session import Page
from bigbrotr.services.sync.ingest import sift
from bigbrotr.services.sync.verifier import Here
from tests.bench import corpus
from tests.kit.events import is_valid, make_event

FRAMES = 300_000
EVENTS = 500  # in the corpus
PAGE = 50  # frames
SUBSCRIPTION = "sub"
MOST_BYTES = 20_000  # of a frame: longer ones say nothing new, and slow it down
SAMPLES = 5  # of what went wrong are shown
POLICY = SynchronizerSettings().policy("")

TimedSocket = dict[str, Any]


class Findings(NamedTuple):
    """What came of so many frames."""

    outcomes: Counter[str]
    accepted: int
    unread: int  # of these, nostr-sdk cannot read: another implementation was asked
    wrong: list[str]  # what was accepted though nobody signed it, or raised
    seconds: float


class Corpus:
    """Real frames, and what was signed."""

    def __init__(self, chance: random.Random) -> None:
        self.events: list[TimedSocket] = [json.loads(data) for _, data in corpus.build(EVENTS, 7)]
        self.events += [make_event(**odd) for odd in ODD]
        self.signed = {each["id"]: each for each in self.events}
        self.frames = [event_frame(each) for each in self.events]
        for n in range(EVENTS // 5):
            sub, some_id = f"sub{n}", chance.choice(self.events)["id"]
            others: list[list[Any]] = [
                ["EOSE", sub],
                ["EOSE", sub, ["finish"]],
                ["CLOSED", sub, "auth-required: who are you?"],
                ["OK", some_id, chance.random() < 0.5, "duplicate: have it"],
                ["NOTICE", "limit exceeds max_limit 300"],
                ["AUTH", chance.randbytes(16).hex()],
                ["NEG-MSG", sub, "61" + chance.randbytes(40).hex()],
                ["NEG-ERR", sub, "blocked: too many records", 500],
                ["COUNT", sub, {"count": n}],
            ]
            self.frames.append(json.dumps(chance.choice(others)).encode())


# What is signed and seldom seen: control characters, NUL, lone surrogates, the ends of the ranges.
ODD: list[dict[str, Any]] = [
    {"content": "".join(map(chr, range(32)))},
    {"content": "\x00"},
    {"content": "\x7f\x80\u2028\ufeff\U0010ffff"},
    {"content": '\\"\\u0041 \\\\u0000'},
    {"tags": [["t", "\x00"], ["e", ""], ["x"]]},
    {"tags": [["a"] * 300]},
    {"kind": 0},
    {"kind": 65535},
    {"created_at": 0},
    {"created_at": 2**31},
    {"created_at": 2**53 + 1},
    {"content": "x" * 15_000},
]
NUMBERS = [
    *(b"-1", b"1e3", b"1.0", b"7.5", b"01", b"1" * 400, b"9223372036854775808", b"-0", b"NaN"),
    *(b"18446744073709551616", b"1e400", b"null", b"true", b'"7"', b"[1]", b"{}", b"Infinity"),
]
JUNK = [
    *(b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf"),
    *(b"\\ud800", b"\\u0000", b"\\u", b"\\x41", b"\\/", b'"', b"\\", b",", b"]", b"}", b"\n"),
    *("\u202e\u0085\u2028".encode(), b"\\uD83D\\uDE00", b"e\xcc\x81"),
]
NPROFILE = (  # of NIP-19
    "nprofile1qqsrhuxx8l9ex335q7he0f09aej04zpazpl0ne2cgukyawd24mayt8gpp4mhxue69uhhytnc9e3k7mgpz4mh"
    "xue69uhkg6nzv9ejuumpv34kytnrdaksjlyr9p"
)
TEXTS = [  # of events that anybody could make
    *("", "e", "wss://a.example", "WS://b.example/x", " wss://c.example ", "w\u017fs://d.example"),
    *("\n", "\t\r\b\f\x0b\x1f", '"', "\\", "\\u0041", "\x00", "\ud800", "\x7f", "\u2028", "\xe9"),
    *("wss://e.example\\", "\u3000wss://f.example", "\xa0ws://g.example", "\nwss://h.example"),
    *("ws:/", "://", "w", " ", "1q", "#" * 70, "\U0001f9a4", '{"wss://i.example":{"read":true}}'),
    NPROFILE,
]
_number = re.compile(rb"(?<=[:,\[])\d+(?=[,\]}])")
_hex = re.compile(rb'"[0-9a-f]{64,128}"')


def event_frame(event: object, **how: Any) -> bytes:
    """An EVENT frame, written as `how` says."""
    how = {"ensure_ascii": False, "separators": (",", ":"), **how}
    return json.dumps(["EVENT", "sub", event], **how).encode("utf-8", "surrogatepass")


# Ways to damage: of the bytes of one frame (and another one) ...


def flip(chance: random.Random, frame: bytes, _: bytes) -> bytes:
    damaged = bytearray(frame)
    for _bit in range(chance.choice((1, 1, 2, 8))):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def cut(chance: random.Random, frame: bytes, _: bytes) -> bytes:
    start, end = sorted(chance.randrange(len(frame) + 1) for _ in range(2))
    return chance.choice((frame[:start], frame[start:], frame[:start] + frame[end:]))


def repeat(chance: random.Random, frame: bytes, _: bytes) -> bytes:
    start, end = sorted(chance.randrange(len(frame) + 1) for _ in range(2))
    return frame[:end] + frame[start:end] * chance.choice((1, 1, 3)) + frame[end:]


def splice(chance: random.Random, frame: bytes, other: bytes) -> bytes:
    return frame[: chance.randrange(len(frame) + 1)] + other[chance.randrange(len(other) + 1) :]


def insert(chance: random.Random, frame: bytes, _: bytes) -> bytes:
    at = chance.randrange(len(frame) + 1)
    return frame[:at] + chance.choice(JUNK) + frame[at + chance.choice((0, 0, 1, 4)) :]


def renumber(chance: random.Random, frame: bytes, _: bytes) -> bytes:
    return _replace(chance, _number, frame, chance.choice(NUMBERS))


def rehex(chance: random.Random, frame: bytes, other: bytes) -> bytes:
    found = _hex.search(other, chance.randrange(len(other)))
    return _replace(chance, _hex, frame, found[0] if found else b'"00"')


def uppercase(chance: random.Random, frame: bytes, _: bytes) -> bytes:
    found = [match.span() for match in _hex.finditer(frame)]
    if not found:
        return frame.upper()
    start, end = chance.choice(found)
    return frame[:start] + frame[start:end].upper() + frame[end:]


def nest(chance: random.Random, frame: bytes, _: bytes) -> bytes:
    at, depth = frame.find(b"[", chance.randrange(len(frame))), chance.choice((3, 900, 5000))
    opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return frame[: max(0, at)] + opening * depth + b"1" + closing * depth + frame[max(0, at) :]


def _replace(chance: random.Random, what: re.Pattern[bytes], frame: bytes, new: bytes) -> bytes:
    found = [match.span() for match in what.finditer(frame)]
    if not found:
        return frame + new
    start, end = chance.choice(found)
    return frame[:start] + new + frame[end:]


# ... and of an event (and another one), in well-formed JSON.


def change_field(chance: random.Random, event: TimedSocket, other: TimedSocket) -> bytes:
    changed = dict(event)
    name = chance.choice(list(event))
    values = [other[name], None, 7, -1, 2**64, 0.5, "", "x", [], {}, [[]], [["e", 7]], True]
    changed[name] = chance.choice(values)
    return event_frame(changed)


def swap(chance: random.Random, event: TimedSocket, other: TimedSocket) -> bytes:
    names = chance.choice((("id",), ("sig",), ("id", "sig"), ("pubkey",), ("pubkey", "sig")))
    return event_frame(event | {name: other[name] for name in names})


def edit(chance: random.Random, event: TimedSocket, _: TimedSocket) -> bytes:
    """One character of one string."""
    changed = json.loads(json.dumps(event))
    content = changed["content"]
    at = chance.randrange(len(content) + 1)
    words = chance.choice(("\x00", "\ud800", "\u2028", " ", "\\", "\x7f", "é"))
    changed["content"] = content[:at] + words + content[at + chance.randrange(2) :]
    return event_frame(changed)


def retell(chance: random.Random, event: TimedSocket, other: TimedSocket) -> bytes:
    """An event of which nothing is right but its id, in the very bytes that were hashed."""
    changed = dict(event, kind=chance.choice((0, 1, 2, 3, 9735, 65535, event["kind"])))
    changed["tags"] = chance.sample(other["tags"], len(other["tags"]) // 2)
    for _ in range(chance.choice((0, 1, 3, 40, 300))):
        values = [
            "".join(chance.choices(TEXTS, k=chance.randrange(4)))
            for _ in range(chance.randrange(4))
        ]
        changed["tags"].append([chance.choice("eptRz1\xe9"), *values] if values else ["e"])
    changed["content"] = "".join(chance.choices([*TEXTS, event["content"]], k=chance.randrange(6)))
    fields = [changed[name] for name in ("pubkey", "created_at", "kind", "tags", "content")]
    hashed = event_frame([0, *fields]).removeprefix(b'["EVENT","sub",').removesuffix(b"]")
    changed["id"] = hashlib.sha256(hashed).hexdigest()
    return event_frame(changed)


def leave_out(chance: random.Random, event: TimedSocket, _: TimedSocket) -> bytes:
    changed = dict(event)
    del changed[chance.choice(list(event))]
    return event_frame(changed)


def add_field(chance: random.Random, event: TimedSocket, other: TimedSocket) -> bytes:
    """A field that nobody knows, or one of its own once more, before or after the right one."""
    more = json.dumps(other if chance.random() < 0.5 else {"more": other})[1:-1].encode()
    frame = event_frame(event)
    if chance.random() < 0.5:
        return frame[:-2] + b"," + more + b"}]"
    return frame.replace(b'"sub",{', b'"sub",{' + more + b",", 1)


def rewrite(chance: random.Random, event: TimedSocket, _: TimedSocket) -> bytes:
    """The same event in other bytes."""
    shuffled = dict(chance.sample(list(event.items()), len(event)))
    return event_frame(
        shuffled,
        ensure_ascii=chance.random() < 0.5,
        separators=chance.choice(((",", ":"), (", ", ": "), (" ,\n", "\t:\r"))),
        indent=chance.choice((None, None, 3)),
    )


DAMAGE: list[Callable[[random.Random, bytes, bytes], bytes]] = [
    *(flip, cut, repeat, splice, insert, renumber, rehex, uppercase, nest)
]
CHANGES: list[Callable[[random.Random, TimedSocket, TimedSocket], bytes]] = [
    *(change_field, swap, edit, leave_out, add_field, rewrite, retell, retell)
]


def mutated(chance: random.Random, real: Corpus) -> bytes:
    """One frame, damaged or not."""
    draw = chance.random()
    if draw < 0.03:
        return chance.choice(real.frames)
    if draw < 0.5:
        return chance.choice(CHANGES)(chance, *chance.choices(real.events, k=2))
    frame = chance.choice(real.frames)
    if draw < 0.55:
        frame = chance.choice(CHANGES)(chance, *chance.choices(real.events, k=2))
    frame = chance.choice(DAMAGE)(chance, frame, chance.choice(real.frames))[:MOST_BYTES]
    if draw > 0.99:
        frame, size = Oversized(frame), len(frame)
        frame.size = size
    return frame


def run(frames: int = FRAMES, seed: int = 1) -> Findings:
    """Sends so many frames the way; the same ones for each seed."""
    chance = random.Random(seed)
    real = Corpus(chance)
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    accepted = unread = 0
    seconds = 0.0
    for start in range(0, frames, PAGE):
        batch = [mutated(chance, real) for _ in range(min(PAGE, frames - start))]
        began = time.perf_counter()
        found = pass_through(batch, outcomes, wrong)
        seconds += time.perf_counter() - began
        for event in found:
            accepted += 1
            fields = json.loads(event.to_json())
            if fields != real.signed.get(event.id.hex()):
                wrong.append(f"accepted, and not signed: {event.to_json()[:300]}")
            opinion = is_good(event.to_json())
            unread += opinion is None
            if not (is_valid(fields) if opinion is None else opinion):
                wrong.append(f"accepted, and refused by others: {event.to_json()[:300]}")
    return Findings(outcomes, accepted, unread, wrong, seconds)


def pass_through(batch: Sequence[bytes], outcomes: Counter[str], wrong: list[str]) -> list[Event]:
    """The events that are accepted of a page of frames."""
    page = Page(Columns(), End.EOSE)
    accepted: list[Event] = []
    scan = Scan(Burst.of(batch), SUBSCRIPTION)
    for position, frame in enumerate(batch):
        is_plain = scan.plain_until(position) > position
        found = scan.event(position, frame) if is_plain else None
        try:
            answer = message.decode(frame)
            outcomes[type(answer).__name__] += 1
            if found is not None and not isinstance(frame, Oversized):
                outcomes["plain"] += 1
                wrong += differences(found, row_of(scan, position), answer)
            if isinstance(answer, EventMessage):
                is_taken = position % 2 == 0 and not isinstance(frame, Oversized)
                if is_taken and is_plain:
                    page.events.take(scan, position, position + 1)
                else:
                    page.events.append(answer.event)
                accepted += taken_alone(answer.event)
            elif isinstance(answer, TooLarge):
                page.oversized.append(frame)
            elif isinstance(answer, Malformed):
                page.malformed[answer.reason.partition(":")[0]] = (1, frame)
                page.unreadable += answer.is_event
                if (claimed := message.claimed_time(frame)) is not None:
                    page.unreadable_ats.append(claimed)
        except Exception as error:  # whatever it is, it is a defect
            wrong.append(f"{error!r} from {bytes(frame[:300])!r}")
    received = len(page.events)
    try:
        answer_, sifted = sift(page, Question(0, None, 500), POLICY)
        asyncio.run(sifted.verify(Here()))
    except Exception as error:
        wrong.append(f"{error!r} from a page with {bytes(batch[0][:300])!r}")
        return accepted
    for reason, (times, _) in sifted.rejected.items():
        outcomes[f"rejected: {reason}"] += times
    outcomes["accepted"] += len(sifted.fresh)
    outcomes["off filter, or twice"] += answer_.off_filter + answer_.repeats
    lost = {event.id for event in accepted} - {event.id for event in sifted.fresh}
    late = {event.id for event in accepted if event.created_at > POLICY.filter.newest}
    if lost - late:
        wrong.append(f"good, and not taken from a page of {received}: {min(lost - late).hex()}")
    return accepted + list(sifted.fresh)


def row_of(scan: Scan, position: int) -> Rows | None:
    """The row that C makes of a plain event, if it does."""
    columns: Columns[Found] = Columns()
    columns.take(scan, position, position + 1)
    rows = make_rows(columns, lambda reason, _: None)
    return None if columns.others else rows


def differences(found: Plain, row: Rows | None, answer: message.Message) -> Iterator[str]:
    """In what C and Python differ about a frame."""
    if not isinstance(answer, EventMessage) or not isinstance(answer.event, WireEvent):
        yield f"plain, and no event: {found.frame[:300]!r}"
        return
    event = decode(identify(answer.event))
    if answer.subscription != SUBSCRIPTION or event.raw is not None or row is None:
        yield f"plain, and odd: {found.frame[:300]!r}"
        return
    read = (found.id, found.created_at, found.kind, found.claim, found.decode())
    if read != (event.id, event.created_at, event.kind, event.claim, event):
        yield f"read in two ways: {found.frame[:300]!r}"
    unverified = Anything(*(getattr(event, name) for name in Anything.__struct_fields__))
    if row.data != event_rows._full_row(unverified):
        yield f"two rows: {found.frame[:300]!r}"
    named = mentioned(event.kind, event.tags, event.content)
    if None in row.naming.values():
        return  # Python is asked
    if list(named) != [url for _, _, urls in row.named() for url in urls]:
        yield f"other relays: {found.frame[:300]!r}"


class Anything(Unsigned, frozen=True):
    """What a row is made of, whoever signed it."""


def taken_alone(heard: Heard) -> list[Event]:
    """An event by itself, without a page: whether it is accepted."""
    event = unpacked(heard)
    if isinstance(event, Event):
        return [event]
    try:
        return [Event.from_wire(event)]
    except ValueError:  # documented
        return []


def is_good(text: str) -> bool | None:
    """What nostr-sdk says of an event; None if it cannot read it."""
    try:
        event = nostr_sdk.Event.from_json(text)
    except nostr_sdk.NostrSdkError:
        return None
    return bool(event.verify())


def measure(frames: int, seed: int) -> int:
    """Prints what came of it; returns the exit code: 1 where something was wrong."""
    print(f"fuzz: {frames:,} damaged frames of seed {seed}", flush=True)
    found = run(frames, seed)
    for outcome, times in found.outcomes.most_common():
        print(f"  {times:>9,} {outcome}")
    each_us = found.seconds / frames * 1e6
    print(
        f"  {each_us:.1f} us a frame; events accepted {found.accepted:,} times,"
        f" of which nostr-sdk cannot read {found.unread:,}; {len(found.wrong)} wrong"
    )
    for words in found.wrong[:SAMPLES]:
        print(f"  {words}")
    return 1 if found.wrong else 0
