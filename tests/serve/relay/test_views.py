"""The two addresses of the relay: what may not be shown is neither stored nor live in an answer."""

from bigbrotr.core.brotr import Brotr
from tests.kit.events import NOW, verified
from tests.kit.policy import judge
from tests.serve.relay.client import client_of, newest_first, relay_of, store


async def test_what_is_hidden_is_neither_stored_nor_live(brotr: Brotr, dsn: str) -> None:
    old, new = (verified(kind=0, created_at=NOW + n) for n in range(2))
    gone = verified("gone")
    request = verified(kind=5, tags=[["e", gone.id.hex()]])
    await store(brotr, [old, new, gone, request])
    await judge(brotr)
    async with (
        relay_of(dsn) as place,
        client_of(place.url) as now,
        client_of(place.archive) as all_,
    ):
        assert (await now.stored({}))[0] == newest_first([new, request])
        assert (await all_.stored({}))[0] == newest_first([old, new, request])
        assert (await now.ask("COUNT", "c", {}))[2]["count"] == 2
        for client in (now, all_):
            assert (await client.ask("REQ", "live", {"limit": 0}))[0] == "EOSE"
        newer, older = (verified(kind=0, created_at=NOW + n) for n in (5, -5))
        await store(brotr, [older, newer])
        await judge(brotr)
        assert (await now.hear())[2]["id"] == newer.id.hex()
        heard = [(await all_.hear())[2]["id"] for _ in range(2)]
        assert sorted(heard) == sorted(each.id.hex() for each in (older, newer))
