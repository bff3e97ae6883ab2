"""What services remember between their runs."""

import time

from bigbrotr.core.brotr import Brotr


async def test_service_data(brotr: Brotr) -> None:
    records = [
        ("finder", "cursor", "b", {"at": [1, None, "é"]}),
        ("finder", "cursor", "a", "first"),
        ("finder", "cursor", "a", "second"),
        ("finder", "other", "a", 1.5),
        ("monitor", "cursor", "a", None),
    ]
    assert await brotr.upsert_service_data(records) == 4
    got = await brotr.get_service_data("finder", "cursor")
    assert [(each["key"], each["value"]) for each in got] == [
        ("a", "second"),
        ("b", {"at": [1, None, "é"]}),
    ]
    assert all(abs(each["updated_at"] - time.time()) < 60 for each in got)
    (one,) = await brotr.get_service_data("finder", "cursor", "a")
    assert one["value"] == "second"
    assert await brotr.get_service_data("finder", "cursor", "c") == []
    (null,) = await brotr.get_service_data("monitor", "cursor")
    assert null["value"] is None
    assert await brotr.delete_service_data([("finder", "cursor", "a"), ("x", "y", "z")]) == 1
    assert await brotr.delete_service_data([("finder", "cursor", "a")]) == 0
    assert await brotr.upsert_service_data([]) == 0
    assert await brotr.delete_service_data([]) == 0


async def test_an_empty_key_is_a_key(brotr: Brotr) -> None:
    await brotr.upsert_service_data([("s", "t", "", 1), ("s", "t", "x", 2)])
    assert [each["value"] for each in await brotr.get_service_data("s", "t", "")] == [1]
