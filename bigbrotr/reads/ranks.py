"""Reads ranks and counts of public keys, events and addresses, and of how much they are known."""

from typing import TypeAlias

from msgspec import Struct

from bigbrotr.core.pool import Pool
from bigbrotr.reads.authors import Holders, holders_of


class RankBasis(Struct, frozen=True, kw_only=True):
    """What ranks and counts are of: the part of the network that is archived, and shown. Times are
    Unix seconds; None: not yet."""

    counted_at: int | None  # when events were last counted
    is_counted: bool  # all that is archived is; false: the newest alone
    ranked_at: int | None  # as of when the follow graph is
    pubkeys: int  # that are in it
    listed: int  # of these, whose list of follows is archived
    follows: int  # in these lists
    writers: int  # authors with a post or reply, as of then
    writers_listed: int  # of these, whose list of follows is archived


class TopRank(Struct, frozen=True, kw_only=True):
    """A public key of the follow graph."""

    pubkey: str
    rank: int  # 0 to 100: the score on a logarithmic scale
    score: float  # PageRank: all of them sum up to 1
    followers: int
    follows: int | None  # None: no list of it is archived
    as_of: int | None  # Unix seconds


class AuthorRank(Struct, frozen=True, kw_only=True):
    """What is known of a public key. Times are Unix seconds, amounts whole satoshis."""

    pubkey: str
    rank: int | None  # 0 to 100: PageRank on a logarithmic scale; None: it is not in the graph
    score: float | None  # PageRank: all of them sum up to 1
    followers: int
    follows: int | None  # None: no list of it is archived
    first_at: int | None  # its first post or reply
    posts: int
    replies: int
    reactions: int  # by it
    zaps_received: int
    sats_received: int
    zaps_sent: int
    sats_sent: int
    reports_received: int
    reports_sent: int
    relays: int  # that hold any of its newest events
    relays_sample: int  # how many events were looked for
    basis: RankBasis


class SubjectRank(Struct, frozen=True, kw_only=True):
    """What is known of an event, or of all versions of an address."""

    subject: str  # the id, or kind:pubkey:d
    comments: int  # that answer it, or are in a thread that it began
    quotes: int
    reposts: int
    reactions: int
    zaps: int
    sats: int  # of the zaps
    basis: RankBasis


TopKey: TypeAlias = tuple[float, str]


async def rank_basis(pool: Pool) -> RankBasis:
    """What ranks and counts are of."""
    row = await pool.fetchrow(
        "SELECT s.counted_at, s.after_at IS NULL AS is_counted, s.ranked_at, s.pubkeys, s.listed,"
        " s.follows, s.writers, s.writers_listed FROM bigbrotr.rank_state AS s"
    )
    if row is None:
        return RankBasis(
            counted_at=None,
            is_counted=False,
            ranked_at=None,
            pubkeys=0,
            listed=0,
            follows=0,
            writers=0,
            writers_listed=0,
        )
    return RankBasis(**row)


async def list_ranks(pool: Pool, after: TopKey | None, limit: int) -> list[tuple[TopKey, TopRank]]:
    """A page of the public keys of the graph, each with its key, the highest score first."""
    as_of = (await rank_basis(pool)).ranked_at
    rows = await pool.fetch(
        "SELECT r.pubkey, r.rank, r.score, r.followers, r.follows FROM bigbrotr.ranks AS r"
        " WHERE $1::pg_catalog.float8 IS NULL OR r.score < $1 OR (r.score = $1 AND r.pubkey > $2)"
        " ORDER BY r.score DESC, r.pubkey LIMIT $3",
        None if after is None else -after[0],
        None if after is None else bytes.fromhex(after[1]),
        limit,
    )
    return [
        (
            (-row["score"], row["pubkey"].hex()),
            TopRank(**{**row, "pubkey": row["pubkey"].hex()}, as_of=as_of),
        )
        for row in rows
    ]


async def author_rank(pool: Pool, pubkey: bytes, holders: Holders | None = None) -> AuthorRank:
    """What is known of a public key (32 bytes). `holders`: who holds its newest events, where that
    was read already."""
    ranked = await pool.fetchrow(
        "SELECT r.rank, r.score, r.followers, r.follows FROM bigbrotr.ranks AS r"
        " WHERE r.pubkey = $1",
        pubkey,
    )
    counted = await pool.fetchrow(
        "SELECT a.* FROM bigbrotr.rank_authors AS a WHERE a.pubkey = $1", pubkey
    )
    if holders is None:
        holders = await holders_of(pool, pubkey)
    counts = {} if counted is None else dict(counted)
    return AuthorRank(
        pubkey=pubkey.hex(),
        rank=None if ranked is None else ranked["rank"],
        score=None if ranked is None else ranked["score"],
        followers=0 if ranked is None else ranked["followers"],
        follows=None if ranked is None else ranked["follows"],
        first_at=counts.get("first_at"),
        posts=counts.get("posts", 0),
        replies=counts.get("replies", 0),
        reactions=counts.get("reactions", 0),
        zaps_received=counts.get("zaps_received", 0),
        sats_received=counts.get("msat_received", 0) // 1000,
        zaps_sent=counts.get("zaps_sent", 0),
        sats_sent=counts.get("msat_sent", 0) // 1000,
        reports_received=counts.get("reports_received", 0),
        reports_sent=counts.get("reports_sent", 0),
        relays=len(holders.relays),
        relays_sample=holders.sample,
        basis=await rank_basis(pool),
    )


async def subject_rank(pool: Pool, subject: bytes) -> SubjectRank:
    """What is known of an event, by its id (32 bytes), or of an address (`kind:pubkey:d`)."""
    row = await pool.fetchrow(
        "SELECT s.* FROM bigbrotr.rank_subjects AS s WHERE s.subject = $1", subject
    )
    counts = {} if row is None else dict(row)
    return SubjectRank(
        subject=subject.hex() if len(subject) == 32 else subject.decode(),  # an address is longer
        comments=counts.get("comments", 0),
        quotes=counts.get("quotes", 0),
        reposts=counts.get("reposts", 0),
        reactions=counts.get("reactions", 0),
        zaps=counts.get("zaps", 0),
        sats=counts.get("msat", 0) // 1000,
        basis=await rank_basis(pool),
    )
