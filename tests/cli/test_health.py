"""`bigbrotr health` where nobody can answer."""

from pathlib import Path

import pytest

from tests.kit.processes import Place, call
from tests.kit.real import free_port


@pytest.mark.slow
async def test_health_of_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    done = await place.call("health")
    assert done.code == 2
    assert "[web] listen" in done.sentence
    place = Place(tmp_path / "place", more=f'[web]\nlisten = "0.0.0.0:{free_port()}"\n')
    done = await place.call("health")
    assert done.code == 1
    assert "nobody answers at" in done.out
    assert (await call("health", "--help")).code == 0
