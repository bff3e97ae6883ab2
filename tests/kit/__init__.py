"""What tests share: events, relays, processes, certificates, a town of servers."""

import pytest

# What fails in what they share says as much as in a test.
pytest.register_assert_rewrite("tests.kit.archive")
