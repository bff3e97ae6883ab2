"""Files that settings name: what cannot be read is said before anything is made."""

from pathlib import Path

import pytest

from tests.kit.processes import Place, call


@pytest.mark.slow
async def test_a_path_that_is_none(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    text = place.config.read_text()
    place.config.write_text(text.replace(str(place.seeds), "seeds\\u0000.txt"))
    done = await place.call("run", "--once")
    assert (done.code, "[seeder] file: cannot read" in done.sentence) == (2, True)


@pytest.mark.slow
async def test_files_that_settings_name(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('[seeder]\nfile = "/nowhere/a"\n[monitor.geo]\nasn_db = "/nowhere/b"\n')
    done = await call("config", "check", str(path))
    assert done.code == 2
    reason = "No such file or directory"
    assert done.err.splitlines() == [
        f"bigbrotr: {path}:2: [seeder] file: cannot read /nowhere/a: {reason}",
        f"bigbrotr: {path}:4: [monitor.geo] asn_db: cannot read /nowhere/b: {reason}",
    ]
    done = await call("run", "--config", str(path), "--data-dir", str(tmp_path / "data"))
    assert (done.code, "[monitor.geo] asn_db" in done.err) == (2, True)
    assert not (tmp_path / "data").exists()
