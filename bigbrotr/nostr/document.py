"""Asks a relay for what it says of itself (NIP-11)."""

import asyncio

from bigbrotr.config.settings import Networks
from bigbrotr.models.nip11 import Nip11
from bigbrotr.models.relay import Relay
from bigbrotr.net.http import Unfetched, fetch
from bigbrotr.net.politeness import Politeness

MAX_BYTES = 256 << 10  # of a document


async def ask_document(
    relay: Relay, networks: Networks, *, timeout_s: float, politeness: Politeness
) -> Nip11 | None:
    """The relay's document; None: it has none that can be read, or does not answer."""
    answer = await fetch(
        f"http{relay.url.removeprefix('ws')}",
        networks,
        max_bytes=MAX_BYTES,
        timeout_s=timeout_s,
        accept="application/nostr+json",
        politeness=politeness,
    )
    if isinstance(answer, Unfetched) or answer.status != 200:
        return None
    try:
        return await asyncio.to_thread(Nip11.parse, answer.body)
    except ValueError:
        return None
