"""Words what is published of public keys (NIP-85), and reads whom users trust for it."""

from collections.abc import Mapping, Sequence

from bigbrotr.models.relay import Relay

OF_PUBKEY = 30382  # kinds
TRUSTED = 10040

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


def has_changed(before: Said | None, now: Said, tolerance: float) -> bool:
    """Whether it is worth saying again: another rank, or a value that has moved by more than its
    `tolerance`, a share of it."""
    if before is None or before.keys() != now.keys() or before["rank"] != now["rank"]:
        return True
    return any(
        value != before[name]
        if name == "first_created_at"
        else abs(value - before[name]) > tolerance * before[name]
        for name, value in now.items()
    )


def tags_of(pubkey: str, said: Said) -> list[list[str]]:
    """The tags of an assertion."""
    return [["d", pubkey], ["p", pubkey], *([name, str(value)] for name, value in said.items())]


def relays_in(tags: Sequence[Sequence[str]], signer: str) -> list[str]:
    """Where the author of a list of trusted providers (kind 10040) looks for what a key says of
    public keys; what is encrypted in it nobody else can read."""
    urls: dict[str, None] = {}
    for tag in tags:
        if len(tag) > 2 and tag[0].startswith(f"{OF_PUBKEY}:") and tag[1] == signer:
            try:
                urls[Relay(tag[2]).url] = None
            except ValueError:
                continue
    return list(urls)
