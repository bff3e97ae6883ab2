"""Counts what matches (NIP-45): exactly as far as that is quick, and as registers that add up."""

import re
import time
from hashlib import sha256
from typing import NamedTuple

from bigbrotr.models.query import Position, Query
from bigbrotr.reads.events import PAGE, EventReads
from bigbrotr.serve.relay.views import PAGE_BYTES

REGISTERS = 256
BUDGET_S = 2.0  # for one count
MOST_READ = 20_000  # events that are looked at, for their authors or where filters overlap

_KEY = re.compile("[0-9a-f]{64}")
_ADDRESS = re.compile(r"\d{1,5}:([0-9a-f]{64}):", re.DOTALL)


class Counted(NamedTuple):
    """How many events match; `hll`: registers of their authors, where all were looked at."""

    number: int
    is_exact: bool
    hll: bytes | None = None


async def count_one(reads: EventReads, query: Query, first_tag: str | None, most: int) -> Counted:
    """Counts what matches one filter, whatever its limit; with `first_tag`, by author as well."""
    found = await reads.count(query, most, budget_s=BUDGET_S)
    if first_tag is None or not found.is_exact or found.events > MOST_READ:
        return Counted(found.events, found.is_exact)
    registers = Registers(offset_of(first_tag))
    deadline = time.monotonic() + BUDGET_S
    after: Position | None = None
    while time.monotonic() < deadline:
        page = await reads.page(query, PAGE, after, budget_s=BUDGET_S, most_bytes=PAGE_BYTES)
        for event in page.events:
            registers.add(event.pubkey)
        if page.next is None:
            return Counted(found.events, found.is_exact, bytes(registers.data))
        after = page.next
    return Counted(found.events, found.is_exact)


async def count_union(reads: EventReads, queries: list[Query], most: int) -> Counted:
    """Counts what matches any of several filters. Where they overlap and much matches, it is about
    as many as match the filters one by one."""
    budget_s = BUDGET_S / len(queries)
    counts = [await reads.count(each, most, budget_s=budget_s) for each in queries]
    total = sum(each.events for each in counts)
    largest = max(each.events for each in counts)
    if not all(each.is_exact for each in counts):
        return Counted(total, is_exact=False)
    if total == largest:
        return Counted(total, is_exact=True)
    if total > MOST_READ:
        return Counted(total, is_exact=False)
    deadline = time.monotonic() + BUDGET_S
    ids: set[bytes] = set()
    for query in queries:
        after: Position | None = None
        while True:
            if time.monotonic() > deadline:
                return Counted(total, is_exact=False)
            page = await reads.page(query, PAGE, after, budget_s=BUDGET_S, most_bytes=PAGE_BYTES)
            ids.update(event.id for event in page.events)
            if page.next is None:
                break
            after = page.next
    return Counted(len(ids), is_exact=True)


class Registers:
    """NIP-45's HyperLogLog: of the authors' keys themselves, from the byte `offset` on."""

    def __init__(self, offset: int) -> None:
        self.data = bytearray(REGISTERS)
        self._offset = offset

    def add(self, pubkey: bytes) -> None:
        """Adds an author; one that is there already changes nothing."""
        rest = pubkey[self._offset + 1 :]
        zeros = 8 * len(rest) - int.from_bytes(rest).bit_length()
        place = pubkey[self._offset]
        self.data[place] = max(self.data[place], zeros + 1)


def offset_of(text: str) -> int:
    """The byte of a key that chooses the register, by the first value of a filter's first tag."""
    if _KEY.fullmatch(text):
        key = text
    elif found := _ADDRESS.match(text):
        key = found[1]
    else:
        key = sha256(text.encode()).hexdigest()
    return int(key[32], 16) + 8
