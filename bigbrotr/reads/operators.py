"""Reads which relays are one operator's, and the evidence for it."""

from msgspec import Struct

from bigbrotr.core.pool import Pool
from bigbrotr.models.operators import Pair, is_joined


class Operator(Struct, frozen=True):
    """An operator of several relays. Times are Unix seconds."""

    id: int  # the smallest number of its relays
    relays: tuple[str, ...]  # URLs, the one that was known first before the others
    aliases: tuple[str, ...]  # URLs of the same hosts that repeat one of them, and are no relays
    joined_at: int  # when the last of them was joined
    as_of: int  # when that was last looked at


class Evidence(Struct, frozen=True):
    """A piece of evidence on two relays. Times are Unix seconds."""

    relay: str
    other: str
    kind: str  # word, certificate, events, alike, self, document
    detail: str  # what was seen
    first_at: int
    seen_at: int
    joins: bool  # all pieces on these two together suffice, and they are joined


class RelayOperator(Struct, frozen=True):
    """What is known of the operator of a relay. Times are Unix seconds."""

    relay: str
    relays: tuple[str, ...]  # of the same operator, this one among them
    aliases: tuple[str, ...]  # URLs of the same hosts that repeat one of them, and are no relays
    evidence: tuple[Evidence, ...]  # on these relays, and on others that are not joined with it
    as_of: int | None  # when that was last looked at; None: never
    share: float | None  # of all relays, those that could be judged by a document or certificate


async def list_operators(pool: Pool, after: int | None, limit: int) -> list[tuple[int, Operator]]:
    """A page of operators of several relays, each with its key, those known for longest first."""
    rows = await pool.fetch(
        "SELECT o.operator_id, pg_catalog.array_agg(r.url ORDER BY r.id) AS relays,"
        " ARRAY(SELECT c.url FROM bigbrotr.candidates AS c"
        "  WHERE c.alias_of = ANY (pg_catalog.array_agg(r.id)) ORDER BY c.url) AS aliases,"
        " pg_catalog.max(o.joined_at) AS joined_at,"
        " (SELECT s.joined_at FROM bigbrotr.operator_state AS s) AS as_of"
        " FROM bigbrotr.operators AS o JOIN bigbrotr.relays AS r ON r.id = o.relay_id"
        " WHERE $1::pg_catalog.int8 IS NULL OR o.operator_id > $1"
        " GROUP BY o.operator_id ORDER BY o.operator_id LIMIT $2",
        after,
        limit,
    )
    return [
        (
            row["operator_id"],
            Operator(
                row["operator_id"],
                tuple(row["relays"]),
                tuple(row["aliases"]),
                row["joined_at"],
                row["as_of"],
            ),
        )
        for row in rows
    ]


async def relay_operator(pool: Pool, url: str) -> RelayOperator | None:
    """What is known of the operator of a relay by its normalised URL; None: it is no relay of this
    archive."""
    row = await pool.fetchrow(
        "SELECT r.id, s.joined_at, s.relays, s.known FROM bigbrotr.relays AS r"
        " LEFT JOIN bigbrotr.operator_state AS s ON true WHERE r.url = $1",
        url,
    )
    if row is None:
        return None
    relays = await pool.fetch(
        "SELECT r.id, r.url FROM bigbrotr.relays AS r LEFT JOIN bigbrotr.operators AS o"
        " ON o.relay_id = r.id WHERE r.id = $1 OR o.operator_id ="
        " (SELECT p.operator_id FROM bigbrotr.operators AS p WHERE p.relay_id = $1) ORDER BY r.id",
        row["id"],
    )
    numbers = [each["id"] for each in relays]
    aliases = await pool.fetch(
        "SELECT c.url FROM bigbrotr.candidates AS c WHERE c.alias_of = ANY ($1) ORDER BY c.url",
        numbers,
    )
    pieces = await pool.fetch(
        "SELECT e.relay_a, e.relay_b, a.url, b.url AS other, e.kind, e.detail, e.first_at,"
        " e.seen_at, bigbrotr.are_apart(p_a => a.id, p_b => b.id) AS is_apart"
        " FROM bigbrotr.operator_evidence AS e"
        " JOIN bigbrotr.relays AS a ON a.id = e.relay_a"
        " JOIN bigbrotr.relays AS b ON b.id = e.relay_b"
        " WHERE e.relay_a = ANY ($1) OR e.relay_b = ANY ($1)"
        " ORDER BY e.relay_a, e.relay_b, e.kind",
        numbers,
    )
    kinds: dict[tuple[int, int], set[str]] = {}
    for each in pieces:
        kinds.setdefault((each["relay_a"], each["relay_b"]), set()).add(each["kind"])
    return RelayOperator(
        url,
        tuple(each["url"] for each in relays),
        tuple(each["url"] for each in aliases),
        tuple(
            Evidence(
                each["url"],
                each["other"],
                each["kind"],
                each["detail"],
                each["first_at"],
                each["seen_at"],
                {each["relay_a"], each["relay_b"]} <= set(numbers)
                and is_joined(
                    Pair(
                        each["relay_a"],
                        each["relay_b"],
                        frozenset(kinds[each["relay_a"], each["relay_b"]]),
                        each["is_apart"],
                    )
                ),
            )
            for each in pieces
        ),
        row["joined_at"],
        row["known"] / row["relays"] if row["relays"] else None,
    )
