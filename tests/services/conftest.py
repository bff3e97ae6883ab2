"""The key that the tests of several services sign with."""

import pytest

from tests.services.monitor.cycle import SECRET


@pytest.fixture
def private_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVATE_KEY", SECRET)
