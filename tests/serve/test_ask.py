"""Asking a running bigbrotr how it is: the answer is about this archive, or says that it is not."""

from pathlib import Path

import pytest

from tests.kit.processes import Place


@pytest.mark.slow
async def test_health_of_a_running_archive(archive: tuple[Place, str]) -> None:
    place, _ = archive
    done = await place.call("health")
    assert (done.code, done.out) == (0, "ok\n")
    done = await place.call("health", "--alive")
    assert (done.code, done.out) == (0, "ok\n")
    async with place.look() as connection:
        await connection.execute(
            "INSERT INTO bigbrotr.ledger VALUES (99, 'full', 'x', 0, 98, '9.0.0')"
        )
        done = await place.call("health")
        await connection.execute("DELETE FROM bigbrotr.ledger WHERE revision = 99")
    assert done.code == 1
    assert "install a newer bigbrotr" in done.out


async def test_health_of_another_archive(archive: tuple[Place, str], tmp_path: Path) -> None:
    """Whoever answers at the port has to be this archive's."""
    _, url = archive
    place = Place(tmp_path / "place", more=f'[web]\nlisten = "{url.removeprefix("http://")}"\n')
    for words in (["health"], ["health", "--alive"]):
        done = await place.call(*words)
        assert done.code == 1
        assert "runs another archive: this one is not running" in done.out
