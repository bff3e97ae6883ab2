"""Where addresses are, out of databases that the test makes, in the three shapes that exist."""

import os
from pathlib import Path
from typing import Any

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from bigbrotr.errors import ConfigError
from bigbrotr.models.check import Measured, Unmeasured
from bigbrotr.services.monitor.geoip import GeoIp, network_of, place_of

NESTED = {
    "continent": {"code": "EU", "names": {"en": "Europe"}},
    "country": {"iso_code": "DE", "names": {"de": "Deutschland", "en": "Germany"}},
    "subdivisions": [{"iso_code": "BE", "names": {"en": "Land Berlin"}}],
    "city": {"names": {"en": "Berlin"}},
    "location": {"latitude": 52.52, "longitude": 13.405, "time_zone": "Europe/Berlin"},
}
DBIP = {
    "continent": {"code": "EU", "names": {"en": "Europe"}},
    "country": {"iso_code": "DE", "names": {"en": "Germany"}, "is_in_european_union": True},
    "subdivisions": [{"names": {"en": "Land Berlin"}}],
    "city": {"names": {"en": "Berlin"}},
    "location": {"latitude": 52.52, "longitude": 13.405},
}
FLAT = {
    "country_code": "DE",
    "state1": "Land Berlin",
    "city": "Berlin",
    "latitude": "52.52",
    "longitude": "13.405",
    "timezone": "Europe/Berlin",
}
BERLIN = {
    "country": "DE",
    "continent": "EU",
    "region": "Land Berlin",
    "city": "Berlin",
    "time_zone": "Europe/Berlin",
    "latitude": 52.52,
    "longitude": 13.405,
    "geohash": "u33dc0cpp",
}


def make_database(path: Path, records: dict[str, Any], *, version: int = 6) -> str:
    """Writes a database of networks and their records."""
    writer = MMDBWriter(ip_version=version, ipv4_compatible=version == 6, float_type="f64")
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(path))
    return str(path)


@pytest.mark.parametrize(
    ("record", "missing"),
    [(NESTED, set()), (DBIP, {"time_zone"}), (FLAT, {"continent"})],
)
async def test_a_place_in_any_shape(
    record: dict[str, Any], missing: set[str], tmp_path: Path
) -> None:
    places = GeoIp(make_database(tmp_path / "city.mmdb", {"192.0.2.0/24": record}), None)
    await places.refresh()
    found = await places.place("192.0.2.7")
    assert found == Measured({k: v for k, v in BERLIN.items() if k not in missing})
    assert isinstance(await places.place("198.51.100.1"), Unmeasured)
    assert isinstance(await places.network("192.0.2.7"), Unmeasured)
    places.close()


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        (
            {"autonomous_system_number": 64500, "autonomous_system_organization": "An Operator"},
            {"asn": 64500, "operator": "An Operator"},
        ),
        ({"asn": "AS64500", "name": "An Operator"}, {"asn": 64500, "operator": "An Operator"}),
        ({"asn": "AS64500", "as_name": "An Operator"}, {"asn": 64500, "operator": "An Operator"}),
        ({"asn": "none", "as_name": 5}, {}),
    ],
)
async def test_a_network_in_any_shape(
    record: dict[str, Any], wanted: dict[str, Any], tmp_path: Path
) -> None:
    places = GeoIp(None, make_database(tmp_path / "asn.mmdb", {"2001:db8::/32": record}))
    await places.refresh()
    assert await places.network("2001:db8::1") == Measured({"address": "2001:db8::1", **wanted})
    places.close()


async def test_addresses_that_a_database_has_no_word_for(tmp_path: Path) -> None:
    places = GeoIp(make_database(tmp_path / "v4.mmdb", {"192.0.2.0/24": FLAT}, version=4), None)
    await places.refresh()
    for address in ("2001:db8::1", "", "nonsense"):
        assert isinstance(await places.place(address), Unmeasured)
    places.close()


async def test_a_database_that_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "city.mmdb"
    places = GeoIp(make_database(path, {"192.0.2.0/24": FLAT}), None)
    await places.refresh()
    (tmp_path / "half").write_bytes(path.read_bytes()[:200])
    (tmp_path / "half").replace(path)
    await places.refresh()  # the old one will do until the new one is whole
    assert isinstance(await places.place("192.0.2.1"), Measured)
    make_database(tmp_path / "new.mmdb", {"192.0.2.0/24": {"city": "Paris"}})
    (tmp_path / "new.mmdb").replace(path)
    os.utime(path, (2, 2))
    await places.refresh()
    assert await places.place("192.0.2.1") == Measured({"city": "Paris"})
    places.close()


async def test_a_database_that_is_overwritten_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "city.mmdb"
    places = GeoIp(make_database(path, {"192.0.2.0/24": FLAT}), None)
    await places.refresh()
    path.write_bytes(b"")
    assert isinstance(await places.place("192.0.2.1"), Unmeasured)
    places.close()


@pytest.mark.parametrize("content", [None, b"", b"not a database"])
async def test_a_file_that_is_none(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.mmdb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.mmdb: ."):
        await GeoIp(str(path), None).refresh()


@pytest.mark.parametrize(
    "record",
    [
        {"country": "DE", "city": 5, "location": [], "subdivisions": {}, "latitude": "x"},
        {"country": "DE", "location": {"latitude": 500.0, "longitude": 1.0}},
        {"country": {"iso_code": "DE", "names": []}, "city": {"names": {}}},
    ],
)
def test_records_without_sense(record: dict[str, Any]) -> None:
    assert place_of(record) == {"country": "DE"}
    assert network_of(record) == {}
