"""What the tests of views share: words of strangers that are hostile, and many relays."""

import time

import msgspec

from bigbrotr.reads.relays import RelayProgress, Stage, Way

# C0, DEL, C1 (with CSI as one byte), what turns the direction of text, what has no width, what ends
# a line for some, and what is no character.
HOSTILE = (
    "a\x1b[2J\x7f\x85\x9b31m\u00ad\u061c\u200b\u200e\u202e\u2028\u2029\u2066\u2069\ufeff\U000e0041b"
)


PASSING = {" ", "\n"}


def assert_harmless(text: str) -> None:
    assert text
    assert all(each.isprintable() or each in PASSING for each in text), repr(text)


def relay(number: int, **changes: object) -> RelayProgress:
    """One of many relays."""
    progress = RelayProgress(
        url=f"wss://relay-number-{number}.somewhere.example.com",
        network="clearnet",
        stage=Stage.WAITING,
        discovered_at=1_700_000_000,
        holds=12_345_678 // (number + 1),
        brought=5,
        gaps=number % 3,
        rejected=number % 2,
        withheld=0,
        due_at=int(time.time()) + 60,
        visited_at=int(time.time()) - 300,
        outcome="complete",
        detail="",
        failures=0,
        retired_at=None,
        filter="",
        identity=None,
        proven=((1_600_000_000, 1_700_000_000),),
        ways={"paging": Way(((1_600_000_000, 1_700_000_000),), 1_700_000_000, 1_700_000_000)},
        nip77=None,
        nip77_tried_at=None,
    )
    return msgspec.structs.replace(progress, **changes)
