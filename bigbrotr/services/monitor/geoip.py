"""Looks up where addresses are and whose they are, in databases in MaxMind's format."""

import asyncio
import ipaddress
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import maxminddb

from bigbrotr.errors import ConfigError
from bigbrotr.models.check import Check, Measured, Unmeasured
from bigbrotr.models.nip66 import geohash

MAX_TEXT = 200  # characters
BROKEN = (OSError, ValueError, IndexError, struct.error, maxminddb.InvalidDatabaseError)

# Look-ups read files: a slow disk must not hold up the event loop, nor what is in the default pool.
_pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="places")


class GeoIp:
    """The databases that are configured, opened when they are there and again when they change."""

    def __init__(self, city_db: str | None, asn_db: str | None) -> None:
        self._files = {"geo": city_db, "net": asn_db}
        self._readers: dict[str, tuple[float, maxminddb.Reader]] = {}

    async def refresh(self) -> None:
        """Opens what is new.

        Raises:
            ConfigError: a file that was named cannot be read.
        """
        await asyncio.get_running_loop().run_in_executor(_pool, self._refresh)

    def _refresh(self) -> None:
        for name, file in self._files.items():
            if file is None:
                continue
            try:
                changed_at = Path(file).stat().st_mtime
                if name in self._readers and self._readers[name][0] == changed_at:
                    continue
                # Not mapped into memory: overwriting a mapped file kills its readers.
                reader = maxminddb.open_database(file, maxminddb.MODE_FILE)
            except BROKEN as error:
                if name in self._readers:
                    continue  # it is being replaced: the old one will do
                words = getattr(error, "strerror", None) or str(error)
                raise ConfigError(f"[monitor.geo]: cannot read {file}: {words}") from None
            self.close(name)
            self._readers[name] = (changed_at, reader)

    def close(self, name: str | None = None) -> None:
        """Closes one database, or all."""
        for each in [name] if name else list(self._readers):
            if each in self._readers:
                self._readers.pop(each)[1].close()

    async def place(self, address: str) -> Check[dict[str, Any]]:
        """Where an address is: country, city, coordinates and the like, what is known of them."""
        record = await self._look_up("geo", address)
        return Measured(place_of(record.value)) if isinstance(record, Measured) else record

    async def network(self, address: str) -> Check[dict[str, Any]]:
        """Whose network an address is in: its number and its operator."""
        record = await self._look_up("net", address)
        if not isinstance(record, Measured):
            return record
        return Measured({"address": address, **network_of(record.value)})

    async def _look_up(self, name: str, address: str) -> Check[Mapping[str, Any]]:
        if name not in self._readers:
            return Unmeasured("no database is configured")
        reader = self._readers[name][1]

        def get() -> Any:
            try:
                return reader.get(ipaddress.ip_address(address))
            except BROKEN:
                return None  # IPv6 in a database of IPv4; a file that is broken inside

        record = await asyncio.get_running_loop().run_in_executor(_pool, get)
        if not isinstance(record, Mapping):
            return Unmeasured("the database does not know the address")
        return Measured(record)


def place_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of a place: nested, as MaxMind and DB-IP make them, or flat."""
    location = _table(record, "location") or record
    country = _table(record, "country") or _table(record, "registered_country")
    regions = record.get("subdivisions")
    region = regions[0] if isinstance(regions, list) and regions else {}
    city, continent = _table(record, "city"), _table(record, "continent")
    found: dict[str, Any] = {
        "country": _text(
            country.get("iso_code"), record.get("country_code"), record.get("country")
        ),
        "continent": _text(continent.get("code"), record.get("continent_code")),
        "region": _text(
            _name(region), record.get("region"), record.get("state1"), record.get("region_name")
        ),
        "city": _text(_name(city), record.get("city"), record.get("city_name")),
        "time_zone": _text(
            location.get("time_zone"), record.get("timezone"), record.get("time_zone")
        ),
    }
    latitude = _degrees(location, ("latitude", "lat"), 90.0)
    longitude = _degrees(location, ("longitude", "lng", "lon"), 180.0)
    if latitude is not None and longitude is not None:
        found |= {
            "latitude": latitude,
            "longitude": longitude,
            "geohash": geohash(latitude, longitude),
        }
    return {name: value for name, value in found.items() if value is not None}


def network_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of a network: MaxMind's and DB-IP's names, or those of flat ones."""
    number = record.get("autonomous_system_number", record.get("asn", record.get("as_number")))
    if isinstance(number, str):
        digits = number.upper().removeprefix("AS")
        number = int(digits) if digits.isascii() and digits.isdigit() else None
    operator = _text(
        *(
            record.get(name)
            for name in ("autonomous_system_organization", "as_name", "as_org", "org", "name")
        )
    )
    found: dict[str, Any] = {}
    if isinstance(number, int) and not isinstance(number, bool) and 0 < number < 2**32:
        found["asn"] = number
    if operator is not None:
        found["operator"] = operator
    return found


def _table(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = record.get(name)
    return table if isinstance(table, Mapping) else {}


def _name(record: Any) -> Any:
    """The English name, else any."""
    if not isinstance(record, Mapping):
        return None
    names = _table(record, "names")
    return names.get("en") or next(iter(names.values()), None) or record.get("name")


def _text(*values: Any) -> str | None:
    """The first that is a text with something in it."""
    texts = (value.strip()[:MAX_TEXT] for value in values if isinstance(value, str))
    return next(filter(None, texts), None)


def _degrees(record: Mapping[str, Any], names: tuple[str, ...], most: float) -> float | None:
    for name in names:
        try:
            value = float(record[name])
        except (KeyError, TypeError, ValueError):
            continue
        if -most <= value <= most:
            return round(value, 4)
    return None
