"""The image: what its Dockerfile promises. `tests/image/check.sh` builds and runs it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bigbrotr.config.settings import Database, Profile
from bigbrotr.config.toml import decode, load
from bigbrotr.errors import ConfigError
from tests.kit.processes import call

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile"


def test_dockerfile_has_no_faults() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("no hadolint for this machine")
    done = subprocess.run(
        [hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_dockerfile_promises() -> None:
    text = DOCKERFILE.read_text()
    assert re.search(r"(?m)^ARG BASE=\S+:\d+\.\d+", text)  # never `latest`
    assert len(re.findall(r"(?m)^FROM \$\{BASE\}", text)) == 2
    assert re.search(r"(?m)^USER 10001:10001$", text)
    assert 'CMD ["bigbrotr", "health"]' in text
    assert 'ENTRYPOINT ["tini", "--", "bigbrotr"]' in text
    assert "--require-hashes" in text
    # What is copied from here exists and gets in, and nothing else does.
    copied = {
        Path(source)
        for line in re.findall(r"(?m)^COPY (?!--from)(.*)$", text)
        for source in line.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    first, *others = (ROOT / ".dockerignore").read_text().splitlines()
    assert first == "*"
    let_in = {Path(line[1:]) for line in others if line.startswith("!")}
    assert let_in == {Path(source.parts[0]) for source in copied}


def test_settings_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that the Dockerfile writes, by the command with which it does."""
    command = re.search(r"(?m)^ +&& (printf .*) > /etc\S+$", DOCKERFILE.read_text())
    assert command
    path = tmp_path / "bigbrotr.toml"
    done = subprocess.run(
        ["/bin/sh", "-ec", command[1]],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    path.write_text(done.stdout)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    config = load(path, Profile.LITE)
    assert config.database.is_embedded
    assert config.web.address() == ("0.0.0.0", 9464)
    # Its own loopback would reach nobody outside.
    assert config.serve.address() == ("0.0.0.0", 7447)
    ports = re.search(r"(?m)^EXPOSE (.*)$", DOCKERFILE.read_text())
    assert ports
    listening = (config.web.address()[1], config.serve.address()[1])
    assert ports[1].split() == [str(port) for port in listening]
    for port in listening:  # as the head of the file says, for this machine alone
        assert f"-p 127.0.0.1:{port}:{port} " in DOCKERFILE.read_text()
    assert config.finder.sources
    monkeypatch.setenv("DATABASE_URL", "postgresql://me@db.example/archive")
    config = load(path, Profile.LITE)
    assert config.database.dsn == "postgresql://me@db.example/archive"


def test_address_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2@db.example/archive")
    assert Database().is_embedded  # only where the file says so
    with pytest.raises(ConfigError, match="DB_PASSWORD") as caught:
        decode({"url": "$DATABASE_URL"}, Database, source="a file")
    assert "hunter2" not in str(caught.value)


@pytest.mark.slow
async def test_defaults_from_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_text("[log]\nlevel = 'ERROR'\n")
    done = await call("config", "show", BIGBROTR_CONFIG=str(path), BIGBROTR_PROFILE="full")
    assert 'level = "ERROR"' in done.out
    done = await call("config", "show", BIGBROTR_PROFILE="medium")
    assert (done.code, "a profile is full or lite" in done.err) == (2, True)
