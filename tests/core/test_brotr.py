"""The database in the words of the domain: what takes several families of calls."""

from bigbrotr.core.brotr import Brotr
from bigbrotr.models.metadata import Metadata, MetadataType, RelayMetadata
from tests.kit.archive import BOTH, A, B, check_totals, held, pairs
from tests.kit.events import NOW, verified


@BOTH
async def test_a_deleted_relay_takes_its_own_along(brotr: Brotr) -> None:
    both, only_a = verified(), verified("\0")
    await brotr.insert_events([*pairs([both, only_a], A), *pairs([both], B)])
    await brotr.insert_relay_metadata(
        [RelayMetadata(A, Metadata({"name": "a"}), MetadataType.NIP11, NOW)]
    )
    await brotr.pool.execute("DELETE FROM bigbrotr.relays WHERE url = $1", A.url)
    assert await held(brotr) == {(both.id, B.url)}
    for table in ("relay_metadata", "relay_metadata_latest", "snapshots", "snapshots_latest"):
        assert await brotr.pool.fetchval(f"SELECT count(*) FROM bigbrotr.{table}") == 0
    await check_totals(brotr)
    assert await brotr.cleanup_orphans(include_relays=False) == {
        "metadata": 1,
        "events": 1,
        "relays": 0,
    }
    assert await brotr.pool.fetchval("SELECT array_agg(id) FROM bigbrotr.events") == [both.id]
    assert await brotr.pool.fetchval("SELECT count(*) FROM bigbrotr.events_raw") == 0
    await check_totals(brotr)
    assert await brotr.insert_events(pairs([only_a, both], A)) == (1, 1)
    await check_totals(brotr)
