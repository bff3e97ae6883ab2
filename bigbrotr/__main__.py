"""`python -m bigbrotr` does what `bigbrotr` does: both begin here."""

import os
import sys
from contextlib import suppress
from pathlib import Path


def main() -> int:
    """Runs the command line; returns the exit code."""
    open_standard()
    speak_utf8()
    from bigbrotr.cli import main  # afterwards: it takes a while

    return main()


def open_standard() -> None:
    """Opens those of standard input, output and error that are closed (`>&-`): the next file or
    socket of ours would take the place, and the event loop breaks off where it is one of its own.
    """
    for place, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(place)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free
            mode = "w" if place else "r"
            setattr(sys, name, open(place, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def speak_utf8() -> None:
    """Begins this process anew in Python's UTF-8 mode where the locale has another charset.

    File names, settings and pipes are UTF-8 then, as with Python 3.15 anywhere. In some locales
    the words of a command line could not even be given back to the system.
    """
    if sys.flags.utf8_mode or sys.getfilesystemencoding().lower() == "utf-8":
        return
    with suppress(OSError):  # as it is, it will do for most
        words = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
        os.execv(sys.executable, [words[0], b"-X", b"utf8", *words[1:]])  # noqa: S606 -- ourselves


if __name__ == "__main__":
    sys.exit(main())
