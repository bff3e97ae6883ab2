"""Directories for servers, and processes that run them."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bigbrotr.embedded.server import EmbeddedPostgres
from tests.kit.servers import Child


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(data_dir: Path, uid: int | None = None) -> Child:
        children.append(Child(data_dir, uid))
        return children[-1]

    yield start
    for each in children:
        each.process.kill()
        each.process.wait()
        assert each.process.stdout is not None
        each.process.stdout.close()


@pytest.fixture(scope="session")
async def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "data"
    async with EmbeddedPostgres(path):
        pass
    return path


@pytest.fixture
def data_dir(template: Path, tmp_path: Path) -> Path:
    """A directory that was used before, and is not in use; a copy saves the time of initdb."""
    subprocess.run(["cp", "-a", template, tmp_path / "data"], check=True)
    return tmp_path / "data"


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A place that other users get to, unlike pytest's own when it runs as root."""
    path = Path(tempfile.mkdtemp(prefix="bigbrotr-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
