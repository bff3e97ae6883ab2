"""A terminal for tests: commands on a pseudo-terminal, and what they have written there."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from tests.kit.processes import environment, until


class Terminal:
    """A command on a pseudo-terminal, and what it has written there."""

    def __init__(self, *words: str, cwd: Path | str, **env: str) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bigbrotr", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=cwd,
            env=environment(TERM="xterm-256color", COLUMNS="120", LINES="40", **env),
            start_new_session=True,
        )
        os.close(theirs)
        os.set_blocking(ours, False)
        self.ours = ours
        self.raw = b""

    def read(self) -> str:
        """All text so far, without colours and movements."""
        try:
            while more := os.read(self.ours, 65536):
                self.raw += more
        except OSError:
            pass  # nothing more now, or the other end has gone
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.raw.decode(errors="replace"))

    async def ends(self) -> int:
        await until(lambda: self.read() is not None and self.process.poll() is not None, "end")
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.ours)
