"""The seeder: the first candidates come from a file of relay URLs."""

import time
from pathlib import Path

import anyio

from bigbrotr.config.settings import Networks, SeederSettings
from bigbrotr.config.shipped import shipped
from bigbrotr.core.base_service import BaseService
from bigbrotr.core.schema import Schema, read_ledger
from bigbrotr.errors import ConfigError, SchemaError
from bigbrotr.models.relay import Network, Relay

SHOWN = 3  # junk lines that are named in the log


class Seeder(BaseService[SeederSettings]):
    """Makes sure that the schema is current, and that each URL of the seed file is a candidate or
    a relay. Repeating it changes nothing."""

    SERVICE_NAME = "seeder"
    CONFIG_CLASS = SeederSettings

    _junk: list[tuple[int, str]] = []  # noqa: RUF012 -- said already; replaced, never changed

    async def run(self) -> None:
        """Reads the seed file into candidates."""
        await self._bring_schema_up_to_date()
        path = Path(self.settings.file) if self.settings.file else shipped("configs") / "seeds.txt"
        relays, junk = await read_seeds(path)
        usable = usable_relays(relays, self.context.config.networks)
        added = await self.brotr.insert_candidates(usable, "seed")
        if added or junk != self._junk or not self.cycles:  # not the same again each hour
            for line, reason in junk[:SHOWN]:
                self.log.warning("not a relay URL", file=path, line=line, reason=reason)
            self.log.info("seeded", file=path, new=added, known=len(usable) - added, junk=len(junk))
        self._junk = junk

    async def _bring_schema_up_to_date(self) -> None:
        async with self.brotr.pool.acquire() as connection:
            ledger = await read_ledger(connection)
            if ledger is None:
                raise SchemaError("the database has no schema yet: run `bigbrotr db migrate`")
            await Schema().migrate(connection, ledger.profile, int(time.time()))


async def read_seeds(path: Path) -> tuple[list[Relay], list[tuple[int, str]]]:
    """Reads a file of one URL a line with `#` comments: its relays, and its lines without one.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        data = await anyio.Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no path, or none in this locale
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"seed file {path}: {reason}") from None
    return read_seeds_of(data)


def read_seeds_of(data: bytes) -> tuple[list[Relay], list[tuple[int, str]]]:
    """The relays in what a seed file holds, and the lines that are none, with their numbers."""
    relays: dict[str, Relay] = {}
    junk: list[tuple[int, str]] = []
    for number, line in enumerate(data.decode("utf-8-sig", "replace").split("\n"), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            relay = Relay(text)
        except ValueError as error:
            junk.append((number, str(error)))
        else:
            relays.setdefault(relay.url, relay)
    return list(relays.values()), junk


def usable_relays(relays: list[Relay], networks: Networks) -> list[Relay]:
    """Without those on this machine or its neighbours', unless the configuration allows them."""
    return [
        relay for relay in relays if relay.network is not Network.LOCAL or networks.local.enabled
    ]
