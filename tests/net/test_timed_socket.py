"""How long a socket waits, and how long we do."""

import socket
import time
from collections.abc import Iterator

import pytest

from bigbrotr.net.timed_socket import TimedSocket, keep_stamps
from tests.kit.punctual import pause


@pytest.fixture(autouse=True)
def _stamps() -> Iterator[None]:
    with keep_stamps():
        yield


async def test_laps_and_trips() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire = TimedSocket(ours)
        assert wire.tcp_rtt_s is None  # no TCP
        total = thought_s = 0.0
        began = time.perf_counter()
        for delay_s in (0.01, 0.02):
            await wire.send(b"?")
            pause(delay_s)
            theirs.send(b"!")
            assert await wire.receive() == b"!"
            assert wire.waited_s >= total + delay_s
            total = wire.waited_s
            thinking = time.perf_counter()
            pause(0.05)
            thought_s += time.perf_counter() - thinking
        # However slow the machine is: thinking is not waiting.
        assert total <= time.perf_counter() - began - thought_s
        wire.lap()
        assert wire.waited_s == 0.0
