"""Files that travel with the package: they are found, and profiles load."""

import pytest

from bigbrotr.config.settings import (
    Database,
    Profile,
)
from bigbrotr.config.shipped import shipped
from bigbrotr.config.toml import load


@pytest.mark.parametrize("profile", list(Profile))
def test_shipped_files_load(profile: Profile) -> None:
    assert load(None, profile).database == Database()
    assert shipped("configs").is_dir()
    assert shipped("sql").is_dir()
