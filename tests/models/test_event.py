"""Events: what is accepted, judged alike by nostr-sdk; how ids are computed; what is indexed."""

import hashlib
import json
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
import nostr_sdk
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bigbrotr.models.event import (
    Event,
    EventRelay,
    Identified,
    Unsigned,
    WireEvent,
    decode,
    identify,
    is_signed,
    preimage,
    storable,
    tag_hash,
    tag_hashes,
    wire_id,
)
from bigbrotr.models.relay import Relay
from tests.kit.events import NOW, make_event, secret, serialise, verified

CALM = settings(deadline=None, max_examples=150)

NASTY = st.sampled_from(
    [
        "\0",
        "\x01",
        "\x1f",
        "\x7f",
        "\b",
        "\f",
        "\n",
        "\t",
        "\\",
        '"',
        "/",
        "\\u0000",
        "\\n",
        "\u2028",
        "\ufeff",
        "\ufffd",
        "\uffff",
        "\U0001d54f",
        "é",
        "e\u0301",
        "\\\\u0001",
        "\x01\\\x02",
    ]
)
TEXT = st.lists(NASTY | st.text(max_size=4), max_size=6).map("".join)
TAGS = st.lists(st.lists(TEXT, min_size=1, max_size=4), max_size=4)


def signed(content: str = "", tags: Sequence[Sequence[str]] = (), **more: Any) -> dict[str, Any]:
    """An event, by what the tests are about."""
    return make_event(content=content, tags=tags, **more)


EVENTS = st.builds(
    signed,
    TEXT,
    TAGS,
    kind=st.integers(0, 65535),
    created_at=st.integers(0, 2**63 - 1) | st.integers(0, 2**33),
    key=st.integers(1, 5),
)
# Two that make a pair are one character to every reader of JSON.
SURROGATES = st.text(st.characters(categories=["Cs", "Lu", "Cc"]), max_size=6).map(
    lambda text: text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
)


def sdk_accepts(text: str) -> bool:
    """The second opinion."""
    try:
        return bool(nostr_sdk.Event.from_json(text).verify())
    except nostr_sdk.NostrSdkError:
        return False


def we_accept(text: str | bytes) -> bool:
    try:
        Event.from_json(text)
    except ValueError as error:
        reason = str(error)
        assert reason.startswith("malformed: ") or reason in ("bad id", "bad signature")
        return False
    return True


def wire_of(text: str) -> WireEvent:
    return msgspec.json.decode(text, type=WireEvent)


@CALM
@given(EVENTS)
@example(signed("a\0b", [["t", "\0"]]))
@example(signed("", [["", ""]], kind=65535, created_at=0))
def test_signed_events_are_accepted_by_both(made: dict[str, Any]) -> None:
    text = serialise(made)
    assert sdk_accepts(text)
    event = Event.from_json(text)
    assert event == Event.from_json(text.encode())
    assert (event.id.hex(), event.pubkey.hex(), event.sig.hex()) == (
        made["id"],
        made["pubkey"],
        made["sig"],
    )
    assert [list(tag) for tag in event.tags] == made["tags"]
    assert (event.created_at, event.kind, event.content) == (
        made["created_at"],
        made["kind"],
        made["content"],
    )
    assert wire_id(wire_of(text)) == event.id


@pytest.mark.slow
@CALM
@given(EVENTS)
def test_the_journey_to_json_and_back(made: dict[str, Any]) -> None:
    event = Event.from_json(serialise(made))
    again = Event.from_json(event.to_json())
    assert again == event
    assert hash(again) == hash(event)
    assert msgspec.structs.astuple(again) == msgspec.structs.astuple(event)
    assert sdk_accepts(event.to_json())


@CALM
@given(TEXT, TAGS)
def test_control_characters_hashed_as_they_are(content: str, tags: list[list[str]]) -> None:
    """NIP-01 escapes seven characters and no others; nostr-sdk escapes all, and refuses these."""
    made = signed(content, tags, verbatim=True)
    text = serialise(made)
    event = Event.from_json(text)
    assert (event.content, [list(tag) for tag in event.tags]) == (content, tags)
    hashed = serialise([0, made["pubkey"], NOW, 1, tags, content], verbatim=True).encode()
    usual = serialise([0, made["pubkey"], NOW, 1, tags, content]).encode()
    assert sdk_accepts(text) == (hashed == usual)
    if event.raw is not None:
        assert event.raw == hashed
    else:
        assert hashed == usual
    again = Event.from_json(event.to_json())
    assert msgspec.structs.astuple(again) == msgspec.structs.astuple(event)


@CALM
@given(SURROGATES, SURROGATES)
def test_lone_surrogates_as_javascript_hashes_them(content: str, value: str) -> None:
    made = signed(content, [["t", value]])
    text = serialise(made)
    event = Event.from_json(text)
    has_surrogates = any("\ud800" <= letter <= "\udfff" for letter in content + value)
    assert sdk_accepts(text) == (not has_surrogates)
    if has_surrogates:
        assert event.raw is not None
        assert hashlib.sha256(event.raw).digest() == event.id
    assert Event.from_json(event.to_json()) == event


def test_created_at_ends_with_bigint() -> None:
    assert we_accept(serialise(signed(created_at=2**63 - 1)))
    for beyond in (2**63, 2**64 - 1):
        text = serialise(signed(created_at=beyond))
        assert sdk_accepts(text)
        with pytest.raises(ValueError, match="created_at out of range"):
            Event.from_json(text)
    for wrong in (-1, 2**64, 10**30):
        text = serialise(signed(created_at=wrong))
        assert sdk_accepts(text) == we_accept(text) is False


def test_kind_ends_with_sixteen_bits() -> None:
    for kind, is_valid in ((0, True), (65535, True), (65536, False), (-1, False), (2**70, False)):
        text = serialise(signed(kind=kind))
        assert sdk_accepts(text) == we_accept(text) == is_valid


FIELDS = ("id", "pubkey", "created_at", "kind", "tags", "content", "sig")
VALUES: list[Any] = [None, True, False, 1, 1.0, 1.5, -1, "", "1", "x", [], {}, [[]], [["a"]], [[1]]]
VALUES += [[["a", None]], ["a"], {"a": 1}, [["a"], "b"], 1700000000.0, "00" * 32, "00" * 64]


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_other_values_are_judged_alike(name: str, value: Any) -> None:
    made = signed("x", [["e", "00"]]) | {name: value}
    text = serialise(made)
    assert we_accept(text) == sdk_accepts(text)


@pytest.mark.parametrize("name", FIELDS)
def test_missing_and_misspelled_fields_are_judged_alike(name: str) -> None:
    made = signed("x")
    rest = {field: value for field, value in made.items() if field != name}
    for wrong in (rest, rest | {name.upper(): made[name]}, rest | {name + " ": made[name]}):
        text = serialise(wrong)
        assert we_accept(text) == sdk_accepts(text) is False


@pytest.mark.parametrize("extra", [None, 1, "x", [[[]]], {"id": "x"}, 1e300])
def test_extra_fields_are_left_out(extra: Any) -> None:
    text = serialise({"a": extra, **signed("x"), "ots": extra, "": extra})
    assert we_accept(text)
    assert sdk_accepts(text)


@CALM
@given(EVENTS, st.sampled_from(["id", "pubkey", "sig"]), st.data())
def test_one_changed_digit_is_noticed(made: dict[str, Any], name: str, data: st.DataObject) -> None:
    digits = made[name]
    place = data.draw(st.integers(0, len(digits) - 1))
    digit = data.draw(st.sampled_from("0123456789abcdef"))
    changed = digits[:place] + digit + digits[place + 1 :]
    text = serialise(made | {name: changed})
    assert we_accept(text) == sdk_accepts(text) == (changed == digits)


@CALM
@given(EVENTS, TEXT, TAGS)
def test_other_content_or_tags_are_noticed(
    made: dict[str, Any], content: str, tags: list[list[str]]
) -> None:
    for changed in ({"content": content}, {"tags": tags}, {"kind": made["kind"] ^ 1}):
        text = serialise(made | changed)
        same = all(made[name] == value for name, value in changed.items())
        assert we_accept(text) == sdk_accepts(text) == same


@pytest.mark.parametrize("name", ["id", "pubkey", "sig"])
def test_upper_case_digits_are_judged_alike(name: str) -> None:
    made = signed("x")
    text = serialise(made | {name: str(made[name]).upper()})
    assert we_accept(text) == sdk_accepts(text)


@pytest.mark.parametrize("name", ["id", "pubkey", "sig"])
@pytest.mark.parametrize("change", ["short", "odd", "blank", "not hex", "not ascii"])
def test_other_lengths_and_letters_are_judged_alike(name: str, change: str) -> None:
    made = signed("x")
    digits = str(made[name])
    changed = {
        "short": digits[2:],
        "odd": digits[1:],
        "blank": " " + digits[1:],
        "not hex": "g" + digits[1:],
        "not ascii": "\uff10" + digits[1:],
    }[change]
    text = serialise(made | {name: changed})
    assert we_accept(text) == sdk_accepts(text) is False
    # nostr-sdk doesn't look at what follows the digits that it needs; NIP-01 wants just those.
    assert not we_accept(serialise(made | {name: digits + "00"}))


def test_a_public_key_that_is_no_point() -> None:
    made = signed("x")
    for pubkey in ("00" * 32, "ff" * 32):
        digest = hashlib.sha256(serialise([0, pubkey, NOW, 1, [], "x"]).encode()).digest()
        forged = {"pubkey": pubkey, "id": digest.hex()}
        forged["sig"] = secret(0).sign_schnorr(digest, b"\0" * 32).hex()
        text = serialise(made | forged)
        assert we_accept(text) == sdk_accepts(text) is False


def escape_all(text: str) -> str:
    """Every character as \\uXXXX, pairs of surrogates beyond the first plane."""
    units = text.encode("utf-16-be", "surrogatepass")
    return (
        '"' + "".join(f"\\u{units[n]:02X}{units[n + 1]:02x}" for n in range(0, len(units), 2)) + '"'
    )


@CALM
@given(EVENTS, st.booleans(), st.permutations(FIELDS))
def test_spacing_escapes_and_order_on_the_wire_do_not_matter(
    made: dict[str, Any], escaped: bool, order: list[str]
) -> None:
    shown = {name: json.dumps(made[name], indent=1 if escaped else None) for name in order}
    if escaped:
        shown["content"] = escape_all(made["content"])
        shown["id"] = escape_all(made["id"])
    text = "\n{ " + "\t,\r\n ".join(f'"{name}" : {value}' for name, value in shown.items()) + "} "
    assert sdk_accepts(text)
    event = Event.from_json(text)
    assert event == Event.from_json(serialise(made))
    assert wire_id(wire_of(text)) in (None, event.id)


@pytest.mark.parametrize("name", FIELDS)
def test_of_repeated_fields_the_last_counts(name: str) -> None:
    """As in JavaScript; nostr-sdk refuses repetitions. What is stored is verified either way."""
    made = signed("x", [["t", "y"]])
    good = serialise(made)
    other = json.dumps(signed("other", [], kind=7, created_at=1, key=2)[name])
    assert we_accept(f'{{"{name}":{other},' + good[1:])
    assert not we_accept(good[:-1] + f',"{name}":{other}}}')
    for text in (f'{{"{name}":0,' + good[1:], good[:-1] + f',"{name}":0}}'):
        assert not sdk_accepts(text)


JUNK = [
    "",
    "null",
    "[]",
    "{}",
    "1",
    '"x"',
    "{",
    "[" * 100_000,
    '{"a":' * 100_000,
    "\ufeff{}",
    "\0",
    "NaN",
]


@pytest.mark.parametrize("text", JUNK, ids=range(len(JUNK)))
def test_junk_is_malformed(text: str) -> None:
    for form in (text, text.encode()):
        with pytest.raises(ValueError, match=r"^malformed: "):
            Event.from_json(form)


@given(st.binary(max_size=40) | st.text(max_size=40))
def test_anything_else_is_malformed(junk: bytes | str) -> None:
    with pytest.raises(ValueError, match=r"^malformed: "):
        Event.from_json(junk)


def test_only_utf_8_is_json() -> None:
    text = serialise(signed("x"))
    for encoding in ("utf-16", "utf-32-le", "utf-8-sig"):
        assert not we_accept(text.encode(encoding))
    assert not we_accept("\ufeff" + text)
    lone = serialise(signed("\ud800")).replace("\\ud800", "\ud800")
    assert not we_accept(lone.encode("utf-8", "surrogatepass"))


def test_strict_json() -> None:
    text = serialise(signed("\t"))
    for wrong in (text.replace("\\t", "\t"), text[:-1] + ",}", text + "x", text.replace('"', "'")):
        assert we_accept(wrong) == sdk_accepts(wrong) is False


# --- the fast path --------------------------------------------------------------------------------


@CALM
@given(EVENTS | st.builds(signed, TEXT, TAGS, verbatim=st.booleans()), st.data())
def test_the_fast_path_agrees_with_the_slow_one(made: dict[str, Any], data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(FIELDS))
        made = made | {name: data.draw(st.sampled_from([made[name], signed("other")[name]]))}
    spaced = data.draw(st.booleans())
    text = json.dumps(made, indent=1) if spaced else serialise(made)
    wire = wire_of(text)
    fast = wire_id(wire)
    slow: bytes | None
    reason = ""
    try:
        slow = Event.from_wire(wire).id
    except ValueError as error:
        slow, reason = None, str(error)
    if slow is None:  # the id may be proven, and the signature wrong
        assert fast is None or reason != "bad id"
    else:
        assert fast in (None, slow)


@CALM
@given(EVENTS | st.builds(signed, TEXT, TAGS, verbatim=st.booleans()), st.booleans())
def test_what_is_hashed_once_is_what_is_hashed_twice(made: dict[str, Any], spaced: bool) -> None:
    """The constructor proves all of it again, with `raw`."""
    text = json.dumps(made, indent=1) if spaced else serialise(made)
    event = Event.from_wire(wire_of(text))
    again = Event(*msgspec.structs.astuple(event)[:-1])
    assert msgspec.structs.astuple(event) == msgspec.structs.astuple(again)


@pytest.mark.parametrize("is_hashed_as_sent", [True, False])
def test_what_hashes_to_its_id_in_other_words_is_no_event(is_hashed_as_sent: bool) -> None:
    """The bytes that came are hashed first; they must be the ones that NIP-01 wants, too."""
    for tags, content in (('[["t", "x"]]', '"x"'), ('[["t","x"]]', '"\\u0078"')):
        made = signed("x", [["t", "x"]])
        hashed = preimage(
            made["pubkey"].encode(),
            made["created_at"],
            made["kind"],
            tags.encode(),
            content.encode(),
        )
        event_id = hashlib.sha256(hashed).hexdigest() if is_hashed_as_sent else made["id"]
        wire = WireEvent(
            *(event_id, made["pubkey"], made["created_at"], made["kind"]),
            *(msgspec.Raw(tags.encode()), msgspec.Raw(content.encode()), made["sig"]),
        )
        assert isinstance(identify(wire), Identified if is_hashed_as_sent else Unsigned)
        if is_hashed_as_sent:
            with pytest.raises(ValueError, match=r"^bad id$"):
                decode(identify(wire))
        else:
            assert decode(identify(wire)).event(is_signed=True) == Event.from_json(serialise(made))


def test_who_says_that_a_signature_is_wrong_gets_no_event() -> None:
    found = decode(identify(wire_of(serialise(signed("x")))))
    with pytest.raises(ValueError, match=r"^bad signature$"):
        found.event(is_signed=False)


def test_the_fast_path_of_other_shapes() -> None:
    text = serialise(signed("x"))
    assert wire_id(wire_of(text)) is not None
    assert wire_id(wire_of(text.replace('"x"', '"y"'))) is None
    assert wire_id(wire_of(text.replace('"tags":[]', '"tags":[ ]'))) is None


# --- the value ------------------------------------------------------------------------------------


def test_a_wrong_event_cannot_be_made() -> None:
    event = verified("x", [["e", "00"]])
    for change, reason in (
        ({"content": "y"}, "bad id"),
        ({"tags": ()}, "bad id"),
        ({"created_at": 1}, "bad id"),
        ({"id": bytes(32)}, "bad id"),
        ({"sig": bytes(64)}, "bad signature"),
        ({"id": bytes(31)}, "malformed: .*32 bytes"),
        ({"raw": b"x"}, "malformed: raw"),
        ({"tags": ((),)}, "malformed: empty tag"),
        ({"kind": -1}, "malformed: kind"),
    ):
        with pytest.raises(ValueError, match=f"^{reason}"):
            msgspec.structs.replace(event, **change)
    with pytest.raises(AttributeError):
        event.content = "y"  # type: ignore[misc]
    assert is_signed(event.id, event.pubkey, event.sig)
    assert not is_signed(event.id, bytes(32), event.sig)


def test_equality_is_the_id() -> None:
    event = verified("x")
    assert event == verified("x")
    assert event != verified("y")
    different: object = event.id
    assert event != different
    assert len({event, verified("x")}) == 1


@pytest.mark.parametrize("wrong", [-1, 2**31 + 1_577_836_800, 1_700_000_000_000, 1.5, True])
def test_seen_at_is_a_unix_time_that_presence_can_hold(wrong: int) -> None:
    relay, event = Relay("wss://a.example.com"), verified()
    assert EventRelay(event, relay, 0).seen_at == 0
    with pytest.raises(ValueError, match="seen_at"):
        EventRelay(event, relay, wrong)


def test_tag_hashes_are_those_of_single_letters() -> None:
    tags = (
        ("e", "1", "2"),
        ("E", ""),
        ("p",),
        ("ab", "x"),
        ("é", "x"),
        ("1", "x"),
        ("", "x"),
        ("t", "a:b"),
    )
    assert tag_hashes((*tags, *tags)) == [
        tag_hash("e", "1"),
        tag_hash("E", ""),
        tag_hash("t", "a:b"),
    ]
    assert tag_hash("t", "nostr") == zlib.crc32(b"t:nostr") - 2**31


def test_few_tags_of_an_event_are_indexed() -> None:
    """All of its tags are stored; to index 100,000 short ones takes more than their size."""
    tags = tuple(("t", f"{n}") for n in range(9000))
    assert tag_hashes(tags) == [tag_hash("t", f"{n}") for n in range(5000)]


@given(st.text(st.characters(), max_size=50) | SURROGATES)
def test_storable_text_keeps_its_length(text: str) -> None:
    stored = storable(text)
    assert len(stored) == len(text)
    stored.encode()
    assert "\0" not in stored
