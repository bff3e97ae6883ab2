"""Tells systemd that we are ready, alive, busy or stopping; nothing where it does not listen.

The protocol of sd_notify(3): one datagram of `NAME=value` lines to the socket in $NOTIFY_SOCKET.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

EXTENSION_S = 60.0  # how much longer a start or stop may take, each time that we say so


class Notifier:
    """Tells the service manager that started us; does nothing without one."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        env = os.environ if environ is None else environ
        self._address = env.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # a socket without a file
            self._address = "\0" + self._address[1:]
        usec, pid = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
        is_watched = usec.isdigit() and int(usec) > 0 and pid in ("", str(os.getpid()))
        self.watchdog_s = int(usec) / 1e6 if is_watched else None  # it wants a sign within this

    def tell(self, *assignments: str, status: str | None = None) -> None:
        """Sends `READY=1` and the like; `status` is a line in words. Never blocks, never fails."""
        lines = [*assignments]
        if status is not None:
            lines.append(f"STATUS={status.translate({10: ' ', 13: ' '})}")
        if not self._address or not lines:
            return
        # A manager that is restarting misses one; the next sign of life tells it again.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(errors="replace"), self._address)


def extension() -> str:
    """Asks for more time to start or stop than the unit allows."""
    return f"EXTEND_TIMEOUT_USEC={int(EXTENSION_S * 1e6)}"
