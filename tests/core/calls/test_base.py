"""What all calls share: batches of any size are split."""

from bigbrotr.config.settings import PoolSettings
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.pool import Pool
from bigbrotr.models.metadata import Metadata, MetadataType, RelayMetadata
from bigbrotr.models.relay import Relay
from tests.kit.archive import A, B, check_totals, pairs
from tests.kit.events import NOW, verified


async def test_a_large_batch_is_split(dsn: str) -> None:
    limits = PoolSettings(max_batch_size=7)
    async with Brotr(Pool(settings=limits, dsn=dsn)) as brotr:
        events = [verified() for _ in range(20)]
        assert await brotr.insert_events(pairs(events, A, B)) == (20, 20)
        relays = [Relay(f"wss://r{n}.example.com") for n in range(20)]
        assert await brotr.insert_relays(relays) == 20
        assert (
            await brotr.insert_candidates(
                [Relay(f"wss://c{n}.example.com") for n in range(20)], "seed"
            )
            == 20
        )
        document = Metadata({})
        snapshots = [RelayMetadata(relay, document, MetadataType.NIP11, NOW) for relay in relays]
        assert await brotr.insert_relay_metadata(snapshots) == 20
        records = [("finder", "cursor", str(n), n) for n in range(20)]
        assert await brotr.upsert_service_data(records) == 20
        assert await brotr.delete_service_data([record[:3] for record in records]) == 20
        await check_totals(brotr)
