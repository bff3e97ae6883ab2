"""`author`: what somebody has said of themselves, and when."""

import argparse
import json

import pytest

from bigbrotr.cli.author import then
from tests.kit.events import make_event, pubkey
from tests.kit.processes import Place

A, B = "wss://a.example.com", "wss://b.example.com"
EVENTS = [
    make_event(1_704_067_200, 10002, [["r", A]]),  # 2024-01-01
    make_event(1_714_521_600, 10002, [["r", B, "write"]]),  # 2024-05-01
    make_event(1_714_521_600, 0, content=json.dumps({"name": "ann\x1b[31m", "about": "hello"})),
    make_event(1_704_067_200, 3, [["p", pubkey(1)]]),
    make_event(1_714_521_600, 3, [["p", pubkey(1)], ["p", pubkey(2)]]),
]


def test_a_time_may_be_a_month_a_day_or_an_instant() -> None:
    assert then("2024-05") == (1_714_521_600, 1_717_199_999)
    assert then("2024-12") == (1_733_011_200, 1_735_689_599)
    assert then("2024-05-01") == (1_714_521_600, 1_714_607_999)
    assert then("1714521600") == (1_714_521_600, 1_714_521_600)
    for text in ("2024-13", "yesterday", "0000-01", "2024-5", ""):
        with pytest.raises(argparse.ArgumentTypeError):
            then(text)


async def test_an_author(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = Place(tmp_path_factory.mktemp("author") / "place")
    file = place.folder / "events.jsonl"
    file.write_text("".join(f"{json.dumps(each)}\n" for each in EVENTS))
    await place.run_once("--only", "maintenance")
    async with place.start("--only", "policy") as running:
        await running.says("ready")
        assert (await place.call("import", str(file))).code == 0
        done = await place.call("author", pubkey(0))
        assert done.code == 0, done.err
        assert "\x1b" not in done.out
        assert f"  {B} (writes): not known here" in done.out
        assert f"  2024-05-01 removed {A}" in done.out
        assert "follows 2, says the list of 2024-05-01" in done.out
        assert "  about: hello" in done.out
        early = json.loads((await place.call("author", pubkey(0), "--at", "2024-02", "--json")).out)
        assert [each["url"] for each in early["then"]["relays"]["relays"]] == [A]
        assert [each["relay"] for each in early["history"]["stays"]] == [A]
        assert early["then"]["profile"] is None
        text = (await place.call("author", pubkey(0), "--at", "2024-02-03")).out
        assert f"{A} (reads and writes), 2024-01-01 to now" in text
        assert "no profile" in text
        nobody = await place.call("author", pubkey(9))
        assert nobody.code == 0
        assert "no list of relays" in nobody.out
        wrong = await place.call("author", "nobody")
        assert wrong.code == 2
        assert "'nobody' is no public key" in wrong.sentence
