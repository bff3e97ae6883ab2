"""What the tests of settings share: a file, and what is in force when it says something."""

from pathlib import Path

import pytest

from bigbrotr.config.settings import (
    Config,
    Profile,
)
from bigbrotr.config.toml import load


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bigbrotr.toml"


def read(path: Path, text: str) -> Config:
    """What is in force when a file says this over the profile full."""
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return load(path, Profile.FULL)
