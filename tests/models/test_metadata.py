"""Metadata: one id for one document, whatever its keys' order and whatever a relay put in."""

import copy
import dataclasses
import hashlib
import json
import math
import pickle
import random
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbrotr.models.metadata import Metadata, MetadataType, RelayMetadata
from bigbrotr.models.relay import Relay


def test_canonical_form_and_id() -> None:
    metadata = Metadata({"b": [1, 2.5, None, True], "a": {"ö": "x\ny", "": ""}})
    assert metadata.canonical == '{"a":{"":"","ö":"x\\ny"},"b":[1,2.5,null,true]}'.encode()
    assert metadata.id == hashlib.sha256(metadata.canonical).digest()
    assert metadata.data == {"b": [1, 2.5, None, True], "a": {"ö": "x\ny", "": ""}}


def test_ids_never_change() -> None:
    """Ids are stored: these were computed once and must hold for ever."""
    known = {
        "{}": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        '{"name":"r","supported_nips":[1,11],"x":{"b":1.5,"a":"\\u0000ä"}}': (
            "532653c66c028410394ef3edbe922b43186475abc0734cda153b1e057a3954c2"
        ),
    }
    for text, expected in known.items():
        assert Metadata.from_json(text).id.hex() == expected


class Level(IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"x": "a\x00b"}, '{"x":"a␀b"}'),
        ({"x\x00": 1}, '{"x␀":1}'),
        ({"x": "\ud800 \udc00", "\udfff": 1}, '{"x":"\ufffd \ufffd","\ufffd":1}'),
        ({"a␀": 1, "a\x00": 2}, '{"a␀":1}'),
        (dict(zip("\ud801\ud800", (1, 2), strict=True)), '{"\ufffd":2}'),
        ({"x": [1.0, -0.0, 1e3, 0.1, 1e-7]}, '{"x":[1,0,1000,0.1,1e-07]}'),
        ({"x": [1e22, 1e300]}, f'{{"x":[{10**22},{10**300}]}}'),
        ({"x": 2**1024 - 1}, f'{{"x":{2**1024 - 1}}}'),
        ({"x": 2**1024}, f'{{"x":"{2**1024}"}}'),
        ({"x": -(10**5000)}, f'{{"x":"{-(10**5000):#x}"}}'),
        ({"x": (1, 2), "y": MappingProxyType({"z": 1})}, '{"x":[1,2],"y":{"z":1}}'),
        ({"x": MetadataType.NIP11, "y": Level.HIGH}, '{"x":"nip11","y":3}'),
        ({MetadataType.NIP11: 1}, '{"nip11":1}'),
        ({"x": "\x1b\x7f\u2028</script>"}, '{"x":"\\u001b\x7f\u2028</script>"}'),
    ],
)
def test_whatever_jsonb_cannot_hold_is_replaced(data: dict[str, Any], text: str) -> None:
    metadata = Metadata(data)
    assert metadata.canonical.decode() == text
    shuffled = dict(reversed(list(data.items())))
    assert Metadata(shuffled).id == metadata.id
    assert Metadata(metadata.data).id == metadata.id


def test_hostile_json() -> None:
    long = "1" + "0" * 200_000
    hostile = '{"a":1e400,"b":-1e999999,"d":"\\u0000\\ud800","e":1E-999,"c":' + long + "}"
    data = Metadata.from_json(hostile).data
    assert (data["a"], data["b"], data["d"], data["e"]) == ("1e400", "-1e999999", "␀\ufffd", 0)
    assert data["c"] == long
    assert Metadata.from_json(hostile.encode()).id == Metadata.from_json(hostile).id
    assert Metadata.from_json(b'\xef\xbb\xbf{"a":"\xc3\xa4"}').data == {"a": "ä"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"x"',
        "{",
        "{}x",
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":-Infinity}',
        b"\xff",
        '{"a":' * 100 + "1" + "}" * 100,
        '{"a":' + "[" * 200_000,
        '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
def test_what_is_no_json_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Metadata.from_json(text)


@pytest.mark.parametrize("data", [None, [], "x", 1, b"{}"])
def test_only_objects(data: Any) -> None:
    with pytest.raises(ValueError, match="object"):
        Metadata(data)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_no_number_no_document(number: float) -> None:
    with pytest.raises(ValueError, match="not a JSON number"):
        Metadata({"x": [number]})


@pytest.mark.parametrize("value", [b"x", {1}, object(), {1: 2}, {None: 1}])
def test_what_json_has_no_word_for(value: object) -> None:
    with pytest.raises(TypeError, match="JSON"):
        Metadata({"x": value})


def test_data_that_contains_itself() -> None:
    data: dict[str, Any] = {}
    data["x"] = [data]
    with pytest.raises(ValueError, match="deeper"):
        Metadata(data)


def test_immutable() -> None:
    source = {"x": [1]}
    metadata = Metadata(source)
    source["x"].append(2)
    metadata.data["x"].append(3)
    assert metadata.data == {"x": [1]}
    with pytest.raises(dataclasses.FrozenInstanceError):
        metadata.id = b""  # type: ignore[misc]
    for twin in (pickle.loads(pickle.dumps(metadata)), copy.deepcopy(metadata)):
        assert twin == metadata
        assert hash(twin) == hash(metadata)
    assert repr(metadata) == f"Metadata({metadata.id.hex()}, 9 bytes)"


# --- generated ------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec=None, categories=None) | st.sampled_from("\x00\ud800\u2400"))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(TEXTS, VALUES, max_size=6)


def shuffled(value: Any, source: random.Random) -> Any:
    if isinstance(value, Mapping):
        pairs = list(value.items())
        source.shuffle(pairs)
        return {key: shuffled(each, source) for key, each in pairs}
    return [shuffled(each, source) for each in value] if isinstance(value, list) else value


@pytest.mark.slow
@given(DOCUMENTS, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(data: dict[str, Any], source: random.Random) -> None:
    assert Metadata(shuffled(data, source)) == Metadata(data)


@given(DOCUMENTS)
def test_what_was_stored_has_the_same_id(data: dict[str, Any]) -> None:
    metadata = Metadata(data)
    assert Metadata(metadata.data) == metadata
    assert Metadata.from_json(metadata.canonical) == metadata
    assert Metadata.from_json(json.dumps(metadata.data, indent=1)) == metadata
    text = metadata.canonical.decode()
    assert "\\u0000" not in text
    assert "\x00" not in text


@pytest.mark.slow
@given(DOCUMENTS, DOCUMENTS)
def test_one_id_means_one_document(one: dict[str, Any], two: dict[str, Any]) -> None:
    first, second = Metadata(one), Metadata(two)
    assert (first.id == second.id) == (first.canonical == second.canonical)
    plain = json.dumps([first.data, second.data], sort_keys=True)
    assert (first.id == second.id) == (
        json.dumps(json.loads(plain)[0], sort_keys=True)
        == json.dumps(json.loads(plain)[1], sort_keys=True)
    )


@given(st.dictionaries(st.text("ab", max_size=2), st.integers() | st.text("xy", max_size=2)))
def test_any_change_changes_the_id(data: dict[str, Any]) -> None:
    metadata = Metadata(data)
    assert Metadata({**data, "c": 1}).id != metadata.id
    for key in data:
        assert Metadata({**data, key: [data[key]]}).id != metadata.id
        assert Metadata({name: data[name] for name in data if name != key}).id != metadata.id


@given(st.text() | st.binary())
def test_from_json_raises_nothing_but_value_error(text: str | bytes) -> None:
    try:
        Metadata.from_json(text)
    except ValueError:
        return


# --- snapshots ------------------------------------------------------------------------------------


def test_snapshots() -> None:
    relay, metadata = Relay("wss://relay.example.com"), Metadata({"name": "x"})
    snapshot = RelayMetadata(relay, metadata, MetadataType.NIP11, 1_700_000_000)
    assert snapshot == RelayMetadata(relay, metadata, MetadataType("nip11"), 1_700_000_000)
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot
    assert RelayMetadata(relay, metadata, "nip66_rtt", 0).type is MetadataType.NIP66_RTT  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nip99"):
        RelayMetadata(relay, metadata, "nip99", 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [None, -1, 2**63, 1.5, True])
def test_snapshot_at_is_a_unix_time(wrong: Any) -> None:
    with pytest.raises(ValueError, match="snapshot_at"):
        RelayMetadata(Relay("wss://r.example.com"), Metadata({}), MetadataType.NIP11, wrong)


def test_types_are_those_that_the_database_knows() -> None:
    assert {str(each) for each in MetadataType} == {
        "nip11",
        "nip66_rtt",
        "nip66_ssl",
        "nip66_geo",
        "nip66_dns",
        "nip66_net",
        "nip66_http",
        "claims",
    }
