"""Ranks are published where they have changed, and nowhere else; read again from a real relay."""

import datetime
import json

import nostr_sdk
import pytest

from bigbrotr.config.settings import (
    Config,
    Link,
    Networks,
    PublisherSettings,
    RankPublishSettings,
    RanksSettings,
)
from bigbrotr.config.toml import decode
from bigbrotr.core.base_service import Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.errors import ConfigError
from bigbrotr.models.keys import Keys
from bigbrotr.models.relay import Relay
from bigbrotr.services.publisher import Publisher
from bigbrotr.services.ranks.service import Ranks
from bigbrotr.supervisor import choose, is_unheard
from tests.kit.events import NOW, pubkey, verified
from tests.kit.invoices import zap
from tests.kit.policy import judge
from tests.kit.scripted import ScriptedRelay
from tests.serve.relay.client import store
from tests.services.ranks.test_service import follows

SECRET = "22" * 32
SIGNER = Keys(SECRET).public_key


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKS_PRIVATE_KEY", SECRET)


def settings(*relays: str, **more: object) -> RanksSettings:
    publish = RankPublishSettings(enabled=True, relays=relays, **more)  # type: ignore[arg-type]
    return RanksSettings(publish=publish, rank_every_s=1.0)


async def cycle(brotr: Brotr, wanted: RanksSettings) -> None:
    """A cycle that ranks and publishes."""
    await brotr.pool.execute("UPDATE bigbrotr.rank_state SET ranked_at = ranked_at - 3600")
    async with Ranks(brotr, wanted, Context(Config())) as made:
        await made.run()


async def outbox(brotr: Brotr) -> dict[tuple[str, int, str], dict[str, str]]:
    """What waits, by target, kind and d; then nothing does."""
    rows = await brotr.pool.fetch("DELETE FROM bigbrotr.outbox RETURNING target, kind, event")
    found = {}
    for row in rows:
        event = json.loads(row["event"])
        assert event["pubkey"] == SIGNER
        tags = {tag[0]: tag[1] for tag in event["tags"]}
        found[row["target"], row["kind"], tags.get("d", "")] = tags
    return found


async def deliver(brotr: Brotr) -> None:
    networks = Networks(clearnet=Link(enabled=False), local=Link(timeout_s=5.0, width=5))
    context = Context(Config(networks=networks), None, "test")
    async with Publisher(brotr, PublisherSettings(), context) as publisher:
        await publisher.run()
        assert publisher.offered["failed"] == publisher.offered["refused"] == 0


async def test_it_is_read_again_from_a_relay(brotr: Brotr) -> None:
    note = verified("hi", created_at=NOW, key=2)
    article = f"30023:{pubkey(2)}:d"
    liked = verified("+", [["e", note.id.hex()], ["a", article]], kind=7, created_at=NOW, key=4)
    await store(brotr, [follows(1, [2]), follows(3, [2]), note])
    await store(brotr, [liked, zap(1, 2, 21, ["e", note.id.hex()], created_at=NOW + 1)])
    await judge(brotr)
    async with ScriptedRelay() as relay:
        await cycle(brotr, settings(relay.url))
        await deliver(brotr)
        client = nostr_sdk.Client()
        await client.add_relay(nostr_sdk.RelayUrl.parse(relay.url))
        await client.connect()
        wanted = nostr_sdk.Filter().author(nostr_sdk.PublicKey.parse(SIGNER))
        target = nostr_sdk.ReqTarget.auto([wanted])
        events = await client.fetch_events(target, timeout=datetime.timedelta(seconds=10))
        await client.shutdown()
    found = {}
    for event in events:
        assert event.verify()
        tags = {tag.to_vec()[0]: tag.to_vec()[1] for tag in event.tags()}
        found[event.kind().as_u16(), tags.get("d", "")] = tags
        if event.kind().as_u16() == 0:
            metadata = nostr_sdk.Metadata.from_json(event.content())
            assert metadata.as_record().name == "bigbrotr PageRank"
    keys = {(30382, pubkey(key)) for key in (1, 2, 3)}
    assert found.keys() == {(0, ""), *keys, (30383, note.id.hex()), (30384, article)}
    of_note = found[30383, note.id.hex()]
    assert (of_note["reaction_cnt"], of_note["zap_cnt"], of_note["zap_amount"]) == ("1", "1", "21")
    assert of_note["e"] == note.id.hex()
    assert found[30384, article]["reaction_cnt"] == "1"
    said = found[30382, pubkey(2)]
    assert (said["rank"], said["followers"], said["post_cnt"]) == ("100", "2", "1")
    assert said["first_created_at"] == str(NOW)
    assert found[30382, pubkey(1)]["rank"] == "0"


async def test_only_what_has_changed_is_said_again(brotr: Brotr) -> None:
    url = "wss://relay.example.com"
    await store(brotr, [follows(1, [2]), follows(3, [2])])
    await judge(brotr)
    await cycle(brotr, settings(url))
    assert len(await outbox(brotr)) == 4
    await cycle(brotr, settings(url))
    assert await outbox(brotr) == {}
    await store(brotr, [verified("hi", created_at=NOW, key=3)])
    await judge(brotr)
    await cycle(brotr, settings(url))
    assert (await outbox(brotr)).keys() == {(url, 30382, pubkey(3))}
    # One who is not ranked any more is told of once, with what is true now.
    await store(brotr, [follows(1, [], NOW + 1), follows(3, [1], NOW + 1)])
    await judge(brotr)
    await cycle(brotr, settings(url))
    found = await outbox(brotr)
    assert found[url, 30382, pubkey(2)]["followers"] == "0"
    await cycle(brotr, settings(url))
    assert await outbox(brotr) == {}


async def test_so_many_at_once(brotr: Brotr) -> None:
    url = "wss://relay.example.com"
    await store(brotr, [follows(key, [9]) for key in range(5)])
    await judge(brotr)
    sizes = []
    for _ in range(4):
        await cycle(brotr, settings(url, most=3))
        sizes.append(len(await outbox(brotr)))
    assert sizes == [3, 3, 1, 0]
    await cycle(brotr, settings(url, pubkeys=1))
    assert await outbox(brotr) == {}


async def test_relays_that_lists_name(brotr: Brotr) -> None:
    one, two, unknown = (f"wss://{name}.example.com" for name in ("one", "two", "unknown"))
    listed = [["30382:rank", SIGNER, two], ["30382:rank", SIGNER, unknown]]
    of_events = [["30383:zap_cnt", SIGNER, four := "wss://four.example.com"]]
    note = verified("hi", created_at=NOW, key=2)
    others = [["30382:rank", pubkey(7), "wss://three.example.com"]]
    await brotr.insert_relays([Relay(two), Relay(four), Relay("wss://three.example.com")])
    await store(
        brotr,
        [
            follows(1, [2]),
            verified("", listed, kind=10040, key=5),
            verified("", others, kind=10040, key=6),
            verified("", of_events, kind=10040, key=8),
            note,
            verified("+", [["e", note.id.hex()]], kind=7, created_at=NOW, key=2),
            verified("nonsense", [["30382:rank", SIGNER]], kind=10040, key=7),
        ],
    )
    await judge(brotr)
    await cycle(brotr, settings(one))
    found = await outbox(brotr)
    kinds = {(target, kind) for target, kind, _ in found if kind}
    assert kinds == {(one, 30382), (one, 30383), (two, 30382), (four, 30383)}
    assert {target for target, kind, _ in found if not kind} == {one, two, four}
    # Who is listed later gets all; who has got it already, nothing.
    await brotr.insert_relays([Relay(unknown)])
    await cycle(brotr, settings(one))
    found = await outbox(brotr)
    assert {target for target, _, _ in found} == {unknown}
    assert len(found) == 3
    await cycle(brotr, settings(one, to_listed=False, tolerance=0.0))
    assert await outbox(brotr) == {}


def test_keys_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Config(ranks=settings("wss://relay.example.com"))
    assert choose(wanted, ["ranks"]) == ["ranks"]
    assert is_unheard(wanted, ["ranks"])
    assert not is_unheard(wanted, ["ranks", "publisher"])
    monkeypatch.setenv("PRIVATE_KEY", SECRET)
    with pytest.raises(ConfigError, match="a key of their own"):
        choose(wanted, ["ranks"])
    monkeypatch.delenv("RANKS_PRIVATE_KEY")
    with pytest.raises(ConfigError, match="needs the environment variable RANKS_PRIVATE_KEY"):
        choose(wanted, ["ranks"])
    assert choose(Config(), ["ranks"]) == ["ranks"]  # nothing is published: no key is needed
    for wrong, words in (
        ({"enabled": True, "to_listed": False}, "nowhere to publish"),
        ({"relays": ["nonsense"]}, "relays: 'nonsense'"),
    ):
        with pytest.raises(ConfigError, match=words):
            decode({"ranks": {"publish": wrong}}, Config, source="a test")
