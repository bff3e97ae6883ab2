"""A relay that knows the truth about its own round trips."""

import json
import socket
import threading
import time
from contextlib import suppress
from itertools import cycle
from typing import Self

from websockets.frames import Frame
from websockets.http11 import Request
from websockets.server import ServerProtocol

from bigbrotr.net.timed_socket import SO_TIMESTAMPNS, STAMP, keep_stamps

Truth = list[tuple[str, float]]  # what was asked, and how long the answer took


class Punctual:
    """Answers after delays, one after the other and then again, one thread a connection. `truths`
    holds, for each connection, how long after the kernel had a request its answer went out, in
    seconds, in order."""

    def __init__(self, *delays_s: float) -> None:
        self._delays_s = cycle(delays_s)
        self.truths: list[Truth] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stamps = keep_stamps()
        self._threads: list[threading.Thread] = []
        self._clients: list[socket.socket] = []
        self.url = f"ws://127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._clients.append(client)
            truth: Truth = []
            self.truths.append(truth)
            self._start(self._talk, client, truth)

    def _start(self, *work: object) -> None:
        thread = threading.Thread(target=work[0], args=work[1:], daemon=True)  # type: ignore[arg-type]
        thread.start()
        self._threads.append(thread)

    def _talk(self, client: socket.socket, truth: Truth) -> None:
        protocol = ServerProtocol()
        with client, suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            while True:
                data, ancillary, _, _ = client.recvmsg(65536, socket.CMSG_SPACE(STAMP.size))
                if not data or not ancillary:
                    return
                seconds, nanoseconds = STAMP.unpack(ancillary[0][2])
                protocol.receive_data(data)
                for event in protocol.events_received():
                    if isinstance(event, Request):
                        asked = "upgrade"
                        protocol.send_response(protocol.accept(event))
                    else:
                        assert isinstance(event, Frame)
                        asked, *rest = json.loads(bytes(event.data))
                        if asked == "CLOSE":
                            continue
                        answer = (
                            ["EOSE", rest[0]] if asked == "REQ" else ["OK", rest[0]["id"], True]
                        )
                        protocol.send_text(json.dumps(answer).encode())
                    time.sleep(next(self._delays_s))
                    truth.append((asked, time.time() - seconds - nanoseconds / 1e9))
                    client.sendall(b"".join(protocol.data_to_send()))

    def __enter__(self) -> Self:
        self._start(self._serve)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self._clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5.0)
        self._stamps.close()


def pause(seconds: float) -> None:
    """Keeps our own event loop busy."""
    time.sleep(seconds)
