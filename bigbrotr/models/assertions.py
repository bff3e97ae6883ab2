"""Words what is published of ranks and counts (NIP-85), and reads whom users trust for it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from bigbrotr.models.relay import Relay

OF_PUBKEY, OF_EVENT, OF_ADDRESS = 30382, 30383, 30384  # kinds
KINDS = (OF_PUBKEY, OF_EVENT, OF_ADDRESS)
TRUSTED = 10040
LETTERS = {OF_PUBKEY: "p", OF_EVENT: "e", OF_ADDRESS: "a"}  # of the tag that names the subject

Said = dict[str, int]  # values by the name of their tag


def said_of(found: Mapping[str, int | None]) -> Said:
    """What is said of a public key, from what is known of it; what is not known is left out."""
    said: Said = {"rank": found["rank"] or 0, "followers": found["followers"] or 0}
    for name, column in (
        ("post_cnt", "posts"),
        ("reply_cnt", "replies"),
        ("reactions_cnt", "reactions"),
        ("zap_cnt_recd", "zaps_received"),
        ("zap_cnt_sent", "zaps_sent"),
        ("reports_cnt_recd", "reports_received"),
        ("reports_cnt_sent", "reports_sent"),
    ):
        said[name] = found[column] or 0
    said["zap_amt_recd"] = (found["msat_received"] or 0) // 1000
    said["zap_amt_sent"] = (found["msat_sent"] or 0) // 1000
    if (first := found["first_at"]) is not None:
        said["first_created_at"] = first
    return said


def said_of_subject(found: Mapping[str, int | None]) -> Said:
    """What is said of an event or address, from what is counted of it."""
    return {
        "comment_cnt": found["comments"] or 0,
        "quote_cnt": found["quotes"] or 0,
        "repost_cnt": found["reposts"] or 0,
        "reaction_cnt": found["reactions"] or 0,
        "zap_cnt": found["zaps"] or 0,
        "zap_amount": (found["msat"] or 0) // 1000,
    }


def has_changed(before: Said | None, now: Said, tolerance: float) -> bool:
    """Whether it is worth saying again: another rank, or a value that has moved by more than its
    `tolerance`, a share of it."""
    if before is None or before.keys() != now.keys():
        return True
    return any(
        value != before[name]
        if name in ("rank", "first_created_at")
        else abs(value - before[name]) > tolerance * before[name]
        for name, value in now.items()
    )


def tags_of(kind: int, d: str, said: Said) -> list[list[str]]:
    """The tags of an assertion."""
    return [["d", d], [LETTERS[kind], d], *([name, str(value)] for name, value in said.items())]


def places_in(tags: Sequence[Sequence[str]], signer: str) -> list[tuple[int, str]]:
    """Where the author of a list of trusted providers (kind 10040) looks for what a key says, each
    with the kind that is looked for; what is encrypted in it nobody else can read."""
    places: dict[tuple[int, str], None] = {}
    for tag in tags:
        if len(tag) < 3 or tag[1] != signer:
            continue
        for kind in KINDS:
            if tag[0].startswith(f"{kind}:"):
                with suppress(ValueError):
                    places[kind, Relay(tag[2]).url] = None
    return list(places)
