"""Witnesses: what other monitors say of relays, and how far they agree with us."""

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from bigbrotr.core.calls.base import Calls, by_column, rows_of, value_of
from bigbrotr.core.calls.monitoring import INTRODUCED
from bigbrotr.core.pool import Connection
from bigbrotr.models.witnesses import KEPT_S, Introduction, Statement, Tally, Word


class Noted(NamedTuple):
    """What became of words: how many are new, of unknown relays, of monitors for whom there is no
    room; and which monitors are new."""

    noted: int = 0
    unknown: int = 0
    refused: int = 0
    admitted: Sequence[bytes] = ()


class Known(NamedTuple):
    """A witness as it is weighed."""

    pubkey: bytes
    heard_at: int
    frequency_s: int | None
    reliability: float
    compared_at: int | None


class WitnessCalls(Calls):
    """What witnesses say. Each step is a transaction of its own."""

    async def begin_witnesses(self, xid: int, number: int, *, is_again: bool = False) -> bool:
        """Notes that the archive was read up to a row of the log of new events; whether that is
        new."""
        begun: bool = await self._value(
            "begin_witnesses", p_xid=xid, p_id=number, p_is_again=is_again
        )
        return begun

    async def witness_position(self) -> tuple[int, int] | None:
        """Up to which row the log of new events was read; None: not yet."""
        row = await self.pool.fetchrow("SELECT s.xid, s.id FROM bigbrotr.witness_state AS s")
        return None if row is None else (row["xid"], row["id"])

    async def note_words(
        self,
        words: Sequence[Word],
        introductions: Sequence[Introduction],
        *,
        most: int,
        protected: Sequence[bytes] = (),
        moved: tuple[tuple[int, int], tuple[int, int]] | None = None,
    ) -> Noted | None:
        """Keeps what is newest of each monitor, for at most `most` of them, `protected` first; in
        one transaction, with `moved`, from one position in the log to another. None: another
        process was quicker."""

        async def work(connection: Connection) -> Noted | None:
            if moved is not None:
                before, after = moved
                is_ours = await value_of(
                    connection,
                    "move_witnesses",
                    p_xid=after[0],
                    p_id=after[1],
                    p_from_xid=before[0],
                    p_from_id=before[1],
                )
                if not is_ours:
                    return None
            total = Noted()
            for batch in self._batches(words):
                done = await _note(connection, batch, most, protected)
                total = Noted(
                    total.noted + done.noted,
                    total.unknown + done.unknown,
                    total.refused + done.refused,
                    (*total.admitted, *done.admitted),
                )
            if introductions:
                await value_of(
                    connection,
                    "note_introductions",
                    p_pubkeys=[each.pubkey for each in introductions],
                    p_said_ats=[each.said_at for each in introductions],
                    p_ids=[each.id for each in introductions],
                    p_frequencies=[each.frequency_s for each in introductions],
                    p_timeouts=[_json(dict(each.timeouts_ms)) for each in introductions],
                    p_checks=[_json(each.checks) for each in introductions],
                    p_geohashes=[each.geohash for each in introductions],
                )
            return total

        return await self._transact(work)

    async def own_monitors(self) -> frozenset[bytes]:
        """The public keys of our own monitor: what it says is not the word of another."""
        rows = await self.pool.fetch(
            "SELECT DISTINCT pg_catalog.jsonb_extract_path_text(d.data, 'said', '0') AS pubkey"
            " FROM bigbrotr.service_data AS d"
            " WHERE d.service_name = $1 AND d.data_type = $2",
            *INTRODUCED,
        )
        return frozenset(bytes.fromhex(row["pubkey"]) for row in rows if row["pubkey"])

    async def known_witnesses(self) -> list[Known]:
        """All witnesses, by key."""
        rows = await self.pool.fetch(
            "SELECT w.pubkey, w.heard_at, w.frequency_s, w.reliability, w.compared_at"
            " FROM bigbrotr.witnesses AS w ORDER BY w.pubkey"
        )
        return [Known(*row) for row in rows]

    async def words_of_relays(
        self, after: int, relays: int, now: int, since: int
    ) -> tuple[list[tuple[int, Statement]], list[tuple[int, Word]]]:
        """Of the next relays behind a number: what we say since `since` (Unix seconds), one of
        each; and what witnesses say. Words have no URL here."""
        own = await self._rows("own_words", p_after=after, p_relays=relays, p_since=since)
        words = await self._rows("read_words", p_after=after, p_relays=relays, p_since=now - KEPT_S)
        return (
            [
                (
                    row["relay_id"],
                    Statement(
                        row["online"], row["auth"], row["payment"], row["tls"], row["open_ms"]
                    ),
                )
                for row in own
            ],
            [
                (row["relay_id"], Word(row["pubkey"], "", row["said_at"], b"", *list(row)[3:]))
                for row in words
            ],
        )

    async def keep_comparison(
        self,
        tallies: Mapping[bytes, Tally],
        reliabilities: Mapping[bytes, float],
        *,
        judged: int,
        witnessed: int,
        now: int,
    ) -> int:
        """Keeps how far witnesses agree, and forgets what is old; returns how many they are."""
        rows = [
            (
                pubkey,
                each.relays,
                each.compared,
                each.agreed,
                each.others_compared,
                each.others_agreed,
                each.timed,
                each.outliers,
                each.ratio,
                reliabilities[pubkey],
            )
            for pubkey, each in tallies.items()
        ]
        columns = by_column(rows, 10)
        kept: int = await self._value(
            "keep_comparison",
            p_pubkeys=columns[0],
            p_relays=columns[1],
            p_compared=columns[2],
            p_agreed=columns[3],
            p_others_compared=columns[4],
            p_others_agreed=columns[5],
            p_timed=columns[6],
            p_outliers=columns[7],
            p_ratios=columns[8],
            p_reliabilities=columns[9],
            p_judged=judged,
            p_witnessed=witnessed,
            p_kept_since=now - KEPT_S,
            p_now=now,
        )
        return kept


async def _note(
    connection: Connection, words: Sequence[Word], most: int, protected: Sequence[bytes]
) -> Noted:
    (row,) = await rows_of(
        connection,
        "note_words",
        p_pubkeys=[each.pubkey for each in words],
        p_urls=[each.url for each in words],
        p_said_ats=[each.said_at for each in words],
        p_ids=[each.id for each in words],
        p_open_ms=[each.open_ms for each in words],
        p_read_ms=[each.read_ms for each in words],
        p_write_ms=[each.write_ms for each in words],
        p_auths=[each.auth for each in words],
        p_payments=[each.payment for each in words],
        p_tls=[each.tls for each in words],
        p_most=most,
        p_protected=list(protected),
        p_now=int(time.time()),
    )
    return Noted(*row)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
