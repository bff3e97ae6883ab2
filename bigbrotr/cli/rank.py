"""The command `rank`: how many follow, answer and zap somebody or something, and ranks by that."""

import argparse

import msgspec

from bigbrotr.cli import parse
from bigbrotr.cli.output import print_json, print_lines, say
from bigbrotr.cli.place import Place, database, find, loop
from bigbrotr.errors import ConfigError
from bigbrotr.models.mentions import decode_bech32, records
from bigbrotr.models.ranks import address_in
from bigbrotr.models.target import Target, parse_target
from bigbrotr.reads.ranks import (
    AuthorRank,
    RankBasis,
    SubjectRank,
    TopRank,
    author_rank,
    list_ranks,
    rank_basis,
    subject_rank,
)
from bigbrotr.view.table import Column, lay_out
from bigbrotr.view.words import moment


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the command."""
    words = "followers, answers, zaps and the rank of somebody, or of an event"
    rank = parse.add(commands, "rank", _rank, words, shared.place)
    rank.add_argument(
        "target",
        nargs="?",
        metavar="TARGET",
        help="an npub, a note, nevent or naddr, an address kind:pubkey:d, or hex",
    )
    rank.add_argument("--top", type=int, metavar="N", help="the N public keys of the highest rank")
    rank.add_argument("--json", action="store_true", help="for programs")


def _rank(options: argparse.Namespace) -> int:
    if (options.target is None) == (options.top is None):
        raise ConfigError("give an npub, note or naddr, or --top N")
    if options.target is None:
        if not 1 <= options.top <= 100_000:
            raise ConfigError("--top N is 1 to 100000")
        return loop(_print_top(find(options), options.top, is_json=options.json))
    target = subject_of(options.target)
    return loop(_print(find(options), target, is_json=options.json))


def subject_of(text: str) -> Target | bytes:
    """What is asked about: an event or public key, or an address.

    Raises:
        ConfigError: it is none of these.
    """
    bare = text.strip().removeprefix("nostr:")
    if (address := address_in(bare)) is not None:
        return address
    if bare.lower().startswith("naddr1"):
        parts = dict(records(decode_bech32(bare.lower())))
        if {0, 2, 3} <= parts.keys() and len(parts[2]) == 32 and len(parts[3]) == 4:
            kind = int.from_bytes(parts[3], "big")
            d = parts[0].decode(errors="replace")
            if (address := address_in(f"{kind}:{parts[2].hex()}:{d}")) is not None:
                return address
        raise ConfigError("this naddr is no address: a letter is missing, wrong or too many")
    try:
        return parse_target(text)
    except ValueError as error:
        raise ConfigError(str(error)) from None


async def _print(there: Place, target: Target | bytes, *, is_json: bool) -> int:
    found: AuthorRank | SubjectRank
    async with database(there) as brotr:
        if isinstance(target, bytes):
            found = await subject_rank(brotr.pool, target)
        elif target.what == "event":
            found = await subject_rank(brotr.pool, target.key)
        else:
            found = await author_rank(brotr.pool, target.key)
            if target.what is None and found.rank is None and found.first_at is None:
                other = await subject_rank(brotr.pool, target.key)
                counts = msgspec.structs.asdict(other)
                found = other if any(counts[name] for name in SUBJECT) else found
    if is_json:
        print_json(found)
        return 0
    print_lines(lines_of(found))
    return 0


SUBJECT = ("comments", "quotes", "reposts", "reactions", "zaps", "sats")
AUTHOR = (
    *("followers", "follows", "posts", "replies", "reactions"),
    *("zaps_received", "sats_received", "zaps_sent", "sats_sent"),
    *("reports_received", "reports_sent"),
)


def lines_of(found: AuthorRank | SubjectRank) -> list[str]:
    """What is known of a public key, an event or an address, for people."""
    values = msgspec.structs.asdict(found)
    names = AUTHOR if isinstance(found, AuthorRank) else SUBJECT
    shown = [(name, values[name]) for name in names if values[name] is not None]
    lines = [found.pubkey if isinstance(found, AuthorRank) else found.subject]
    if isinstance(found, AuthorRank):
        rank = "not in the follow graph" if found.rank is None else f"{found.rank} of 100"
        lines.append(f"rank              {rank}")
    lines += [f"{name.replace('_', ' '):18}{value:,}" for name, value in shown]
    if isinstance(found, AuthorRank):
        first = "never" if found.first_at is None else moment(found.first_at)
        lines.append(f"first post        {first}")
        lines.append(
            f"relays            {found.relays:,} hold any of its newest {found.relays_sample:,}"
        )
    return [*lines, *basis_lines(found.basis)]


def basis_lines(basis: RankBasis) -> list[str]:
    """Of what part of the network ranks and counts are."""
    if basis.counted_at is None:
        return ["nothing was counted yet: [ranks] enabled = true has it counted"]
    part = "" if basis.is_counted else " (the newest alone: it goes on)"
    lines = [f"counted as of {moment(basis.counted_at)}{part}"]
    if basis.ranked_at is None:
        return [*lines, "nobody was ranked yet"]
    share = f" ({basis.writers_listed / basis.writers:.0%})" if basis.writers else ""
    lines.append(
        f"ranked as of {moment(basis.ranked_at)}: {basis.follows:,} follows in the lists of"
        f" {basis.listed:,}, of {basis.pubkeys:,} public keys"
    )
    lines.append(
        f"{basis.writers_listed:,} of {basis.writers:,} archived writers{share} have a list"
    )
    return lines


async def _print_top(there: Place, number: int, *, is_json: bool) -> int:
    async with database(there) as brotr:
        found = [each for _, each in await list_ranks(brotr.pool, None, number)]
        basis = await rank_basis(brotr.pool)
    if is_json:
        value = {"basis": basis, "ranks": found}
        print_json(value)
        return 0
    if found:
        _table(found)
    else:
        say("nobody was ranked yet")
    for line in basis_lines(basis):
        print(line)  # noqa: T201
    return 0


def _table(found: list[TopRank]) -> None:
    columns = [
        Column("public key", [each.pubkey for each in found]),
        Column("rank", [str(each.rank) for each in found], is_number=True),
        Column("followers", [f"{each.followers:,}" for each in found], is_number=True),
        Column(
            "follows",
            ["-" if each.follows is None else f"{each.follows:,}" for each in found],
            is_number=True,
        ),
    ]
    for line in lay_out(columns, None):
        print(line.plain)  # noqa: T201
