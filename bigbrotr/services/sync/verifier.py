"""The verifier: checks signatures beside a worker, in a process that does nothing else.

A signature by itself costs as much as all the rest that a worker does with an event. In a thread it
would cost twice as much: to go from one to the next takes the interpreter's lock from the worker.
"""

import asyncio
import gc
import os
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol, cast

from bigbrotr.models import signatures
from bigbrotr.models.signatures import CLAIM_BYTES

_HEAD = struct.Struct("!I")  # how many claims follow


class Verifier(Protocol):
    """Verifies claims: signatures with the ids and keys that they are said to be of, 128 bytes each
    and one behind the other."""

    def verify(self, claims: bytes) -> Awaitable[Sequence[bool]]:
        """Begins to verify, and hands out of each claim whether it is right."""


class Here:
    """Verifies in this process, which does nothing else meanwhile."""

    def verify(self, claims: bytes) -> Awaitable[Sequence[bool]]:
        """Hands out of each claim whether it is right."""
        future = asyncio.get_running_loop().create_future()
        future.set_result(verify(claims))
        return future


class Asked(NamedTuple):
    """Claims that the process beside was asked about."""

    claims: bytes
    answer: asyncio.Future[Sequence[bool]]

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self.claims) // CLAIM_BYTES


class Beside(asyncio.Protocol):
    """Verifies in a process beside this one; here, once that is gone."""

    def __init__(self, to_process: socket.socket) -> None:
        self._socket = to_process
        self._is_connected = False
        self._transport: asyncio.Transport | None = None  # as long as it answers
        self._asked: deque[Asked] = deque()  # answers come in this order
        self._arrived = bytearray()

    async def connect(self) -> None:
        """Begins to listen to the process, in the loop that runs. Does nothing the second time."""
        if not self._is_connected:
            self._is_connected = True
            await asyncio.get_running_loop().create_connection(lambda: self, sock=self._socket)

    def verify(self, claims: bytes) -> Awaitable[Sequence[bool]]:
        """Begins to verify, and hands out of each claim whether it is right."""
        future = asyncio.get_running_loop().create_future()
        if self._transport is None:
            future.set_result(verify(claims))
        elif not claims:
            future.set_result([])
        else:
            self._asked.append(Asked(claims, future))
            self._transport.write(_HEAD.pack(len(claims) // CLAIM_BYTES) + claims)
        return future

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process can be asked."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """Answers came: a byte for each claim."""
        self._arrived += data
        while self._asked and len(self._arrived) >= (size := self._asked[0].number):
            answers = [each == 1 for each in self._arrived[:size]]
            del self._arrived[:size]
            self._answer(answers)

    def connection_lost(self, error: Exception | None) -> None:
        """The process is gone: what it has not answered is verified here."""
        self._transport = None
        while self._asked:
            self._answer(verify(self._asked[0].claims))

    def _answer(self, answers: Sequence[bool]) -> None:
        answer = self._asked.popleft().answer
        if not answer.done():  # nobody waits any more
            answer.set_result(answers)


def verify(claims: bytes) -> list[bool]:
    """Returns of each claim whether it is right."""
    return signatures.here.judge(claims)


def fork_verifier() -> socket.socket:
    """Starts a process that verifies; returns the socket to it. It ends with this process.

    To be called while this process has one thread.
    """
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        ours.setblocking(False)
        return ours
    try:
        # What was open here must not stay open there: others wait for its end.
        number = theirs.fileno()
        os.closerange(3, number)
        os.closerange(number + 1, os.sysconf("SC_OPEN_MAX"))
        gc.freeze()
        with suppress(OSError):
            serve(theirs)
    finally:
        os._exit(0)


def serve(asked: socket.socket) -> None:
    """Answers until the other end is closed."""
    with asked.makefile("rb") as questions:
        while head := questions.read(_HEAD.size):
            (count,) = _HEAD.unpack(head)
            claims = questions.read(CLAIM_BYTES * count)
            asked.sendall(bytes(judge(claims, count)))


def judge(claims: bytes, count: int) -> list[bool]:
    """Returns of each claim, as it goes through the socket, whether it is right."""
    if len(claims) != CLAIM_BYTES * count:
        return []
    return signatures.here.judge(claims)
