"""The corpus: signed events with the kinds and sizes that relays hold, the same for each seed.

Shares and sizes follow what public relays hold, roughly: notes and replies 45 %, reactions 25 %,
reposts 6 %, zap receipts 8 % (with the request in a tag), follow lists 3 % (up to some hundred
tags), profiles 5 %, relay lists 3 %, encrypted messages 5 %. The mean is about 880 bytes of JSON.
"""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from coincurve import PrivateKey, PublicKeyXOnly

AUTHORS = 500
NEWEST = 1_790_000_000
SPREAD_S = 365 * 86400
SYLLABLES = [
    "no",
    "str",
    "re",
    "lay",
    "zap",
    "bit",
    "coin",
    "sat",
    "oshi",
    "free",
    "dom",
    "note",
    "eve",
    "nt",
    "key",
    "pub",
    "sig",
    "na",
    "ture",
    "time",
    "line",
]


def build(
    count: int, seed: int = 1, *, distinct_tags: bool = False, spread_s: int = SPREAD_S
) -> list[tuple[int, bytes]]:
    """`count` events as (created_at, JSON), newest first, of the last `spread_s` seconds.
    `distinct_tags`: as in real archives, most events name others that nobody else names."""
    chance = random.Random(seed)
    secrets = [chance.randbytes(32) for _ in range(AUTHORS)]
    keys = [PrivateKey(secret) for secret in secrets]
    pubkeys = [PublicKeyXOnly.from_secret(secret).format().hex() for secret in secrets]
    ids = [chance.randbytes(32).hex() for _ in range(2000)]
    events = []
    for _ in range(count):
        author = min(int(chance.expovariate(6 / AUTHORS)), AUTHORS - 1)
        created_at = NEWEST - int(chance.random() * spread_s)
        if distinct_tags:
            ids = [chance.randbytes(32).hex() for _ in range(8)]
        kind, tags, content = _body(chance, ids, pubkeys)
        fields = [0, pubkeys[author], created_at, kind, tags, content]
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        event_id = hashlib.sha256(text.encode()).digest()
        event: dict[str, Any] = {
            "content": content,
            "created_at": created_at,
            "id": event_id.hex(),
            "kind": kind,
            "pubkey": pubkeys[author],
            "sig": keys[author].sign_schnorr(event_id, bytes(32)).hex(),
            "tags": tags,
        }
        ids[chance.randrange(len(ids))] = event["id"]
        data = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
        events.append((created_at, data))
    events.sort(key=lambda entry: (-entry[0], json.loads(entry[1])["id"]))
    return events


def _body(
    chance: random.Random, ids: list[str], pubkeys: list[str]
) -> tuple[int, list[list[str]], str]:
    def e() -> list[str]:
        return ["e", chance.choice(ids), "wss://relay.example.com"]

    def p() -> list[str]:
        return ["p", chance.choice(pubkeys)]

    draw = chance.random()
    if draw < 0.20:
        return 1, [["t", chance.choice(SYLLABLES)]] * chance.randint(0, 3), _words(chance, 60)
    if draw < 0.45:
        root, parent = [*e(), "root"], [*e(), "reply"]
        return 1, [root, parent, p(), p()], _words(chance, 40)
    if draw < 0.70:
        return 7, [e(), p(), ["k", "1"]], chance.choice("+🤙❤🔥")
    if draw < 0.76:
        return 6, [e(), p()], json.dumps({"kind": 1, "content": _words(chance, 40)})
    if draw < 0.84:
        request = json.dumps({"kind": 9734, "content": "", "tags": [e(), p(), ["amount", "21000"]]})
        invoice = "lnbc210n1" + chance.randbytes(150).hex()
        return 9735, [p(), e(), ["bolt11", invoice], ["description", request]], ""
    if draw < 0.87:
        return 3, [p() for _ in range(int(chance.expovariate(1 / 60)) + 5)], ""
    if draw < 0.92:
        profile = {
            "name": _words(chance, 2),
            "about": _words(chance, 20),
            "picture": "https://x.y/z",
        }
        return 0, [], json.dumps(profile)
    if draw < 0.95:
        relays = [["r", f"wss://relay{chance.randrange(500)}.example.com"] for _ in range(6)]
        return 10002, relays, ""
    return 4, [p()], chance.randbytes(180).hex() + "?iv=" + chance.randbytes(12).hex()


def _words(chance: random.Random, mean: int) -> str:
    """Words with now and then a line break, a quote or an accent, as people write."""
    words = []
    for _ in range(int(chance.expovariate(1 / mean)) + 1):
        word = "".join(chance.choices(SYLLABLES, k=chance.randint(1, 3)))
        draw = chance.random()
        words.append(
            word + ("\n" if draw < 0.03 else '"' if draw < 0.04 else "é" if draw < 0.06 else "")
        )
    return " ".join(words)


def write(path: Path, events: list[tuple[int, bytes]]) -> None:
    """Writes events as JSON lines."""
    with path.open("wb") as file:
        for _, data in events:
            file.write(data + b"\n")


def read(path: Path) -> list[tuple[int, bytes]]:
    """The events in JSON lines, as written."""
    with path.open("rb") as file:
        return [(json.loads(line)["created_at"], line.rstrip(b"\n")) for line in file]
