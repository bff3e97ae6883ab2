"""The log: events with fields, one line each, whatever a relay put into them."""

import io
import json
import locale
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import IO, Any

ROOT = "bigbrotr"
MAX_VALUE = 1000  # characters of a value; the rest is cut and counted
PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}  # sd-daemon(3)
UNSAID = ("ANSI_X3.4-1968", "US-ASCII")  # the charset where no locale is set: UTF-8 will do
RESERVED = frozenset({"time", "level", "logger", "message", "traceback"})


class Logger:
    """A named log whose messages carry fields: `log.info("synced", relay=url, events=5)`.

    As text: `synced relay=wss://… events=5`, a value in quotes where it is empty or holds blanks,
    `=`, quotes or backslashes; inside quotes, backslashes, quotes and everything unprintable are
    escaped. With `json_output` one JSON object a line, whatever `configure` said. Bytes are
    shown in hex. Nothing is formatted below the level, and no value makes logging fail.
    """

    __slots__ = ("_context", "_logger", "json_output", "name")

    def __init__(
        self, name: str, json_output: bool = False, *, context: Mapping[str, Any] | None = None
    ) -> None:
        self.name = name.removeprefix(f"{ROOT}.")
        self.json_output = json_output
        self._context = MappingProxyType(dict(context or {}))
        self._logger = logging.getLogger(f"{ROOT}.{self.name}")

    def bind(self, /, **fields: Any) -> "Logger":
        """A logger of the same name that adds `fields` to every event; this one stays as it is."""
        return Logger(self.name, self.json_output, context={**self._context, **fields})

    def debug(self, message: str, /, **fields: Any) -> None:
        """What helps to find a defect."""
        self._log(logging.DEBUG, message, fields)

    def info(self, message: str, /, **fields: Any) -> None:
        """What an operator likes to see happen."""
        self._log(logging.INFO, message, fields)

    def warning(self, message: str, /, **fields: Any) -> None:
        """What went wrong and was coped with."""
        self._log(logging.WARNING, message, fields)

    def error(self, message: str, /, **fields: Any) -> None:
        """What went wrong and needs somebody."""
        self._log(logging.ERROR, message, fields)

    def critical(self, message: str, /, **fields: Any) -> None:
        """What ends the process."""
        self._log(logging.CRITICAL, message, fields)

    def exception(self, message: str, /, **fields: Any) -> None:
        """An error, with the traceback of the exception that is being handled."""
        self._log(logging.ERROR, message, fields, with_traceback=True)

    def _log(
        self, level: int, message: str, fields: dict[str, Any], with_traceback: bool = False
    ) -> None:
        if not self._logger.isEnabledFor(level):
            return
        event = _Event(level, self.name, message, {**self._context, **fields}, self.json_output)
        handled = sys.exc_info() if with_traceback else None
        exc_info = handled if handled and handled[0] is not None else None
        self._logger.log(level, event, exc_info=exc_info, stacklevel=3)


class _Event:
    """What happened, formatted only when a handler asks for it."""

    __slots__ = ("as_json", "fields", "level", "logger", "message")

    def __init__(
        self, level: int, logger: str, message: str, fields: dict[str, Any], as_json: bool
    ) -> None:
        self.level = level
        self.logger = logger
        self.message = message
        self.fields = fields
        self.as_json = as_json

    def __str__(self) -> str:
        if self.as_json:
            level = logging.getLevelName(self.level)
            return json_line(time.time(), level, self.logger, self.message, self.fields)
        return text_line(self.message, self.fields)


def configure(
    level: str | int = "INFO", json_output: bool = False, stream: IO[str] | None = None
) -> None:
    """Send the log of this process to `stream` (standard error if None); repeating it replaces.

    `level` counts for bigbrotr; the libraries below it speak from WARNING on. On a terminal the
    time is short, in the journal priorities stand in for times; all times are of UTC.
    ValueError for an unknown level.
    """
    number = logging.getLevelNamesMapping().get(level.upper()) if isinstance(level, str) else level
    if number is None:
        raise ValueError(f"unknown log level {level!r}: one of {', '.join(PRIORITIES)}")
    handler = _Handler(sys.stderr if stream is None else stream, json_output)
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    # When the server goes away asyncpg says so with a traceback; our services say it in words.
    logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)
    logging.getLogger(ROOT).setLevel(number)


def open_up(stream: IO[str]) -> None:
    """Sees to it that any text can be written to a standard stream: what a terminal cannot show is
    replaced; a file or a pipe gets UTF-8, as our files are read, whatever the locale."""
    if not isinstance(stream, io.TextIOWrapper):
        return
    if stream.isatty():
        stream.reconfigure(errors="replace")
        charset = locale.getencoding()  # Python's UTF-8 mode does not ask it
        if "PYTHONIOENCODING" not in os.environ and charset not in UNSAID:
            with suppress(LookupError):  # of glibc and not of Python
                stream.reconfigure(encoding=charset, errors="replace")
    elif "PYTHONIOENCODING" in os.environ:
        stream.reconfigure(errors="backslashreplace")
    else:
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def is_journal(stream: IO[str]) -> bool:
    """Whether systemd's journal reads this stream, see JOURNAL_STREAM in systemd.exec(5)."""
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    # The variable is inherited by children whose output goes elsewhere, hence the comparison.
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


class _Handler(logging.StreamHandler[IO[str]]):
    """Writes each record in the form that its reader expects: terminal, journal, file or JSON."""

    def __init__(self, stream: IO[str], json_output: bool) -> None:
        super().__init__(stream)
        self.json_output = json_output
        self.in_journal = is_journal(stream)
        self.on_terminal = bool(getattr(stream, "isatty", lambda: False)())
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def format(self, record: logging.LogRecord) -> str:
        event = record.msg if isinstance(record.msg, _Event) else None
        message = event.message if event else foreign_message(record)
        fields = event.fields if event else {}
        name = record.name.removeprefix(f"{ROOT}.")
        traceback = format_traceback(record)
        if self.json_output or (event and event.as_json):
            lines = [json_line(record.created, record.levelname, name, message, fields, traceback)]
        else:
            lines = [f"{self.opening(record)}{printable(name)}: {text_line(message, fields)}"]
            # Behind a bar, so that no line of an exception's text passes for an event.
            lines += [f"  | {printable(line)}" for line in traceback.splitlines()]
        if self.in_journal:
            priority = f"<{PRIORITIES.get(record.levelname, 6)}>"
            lines = [priority + line for line in lines]
        text = "\n".join(lines)
        return text.encode(self.encoding, "backslashreplace").decode(self.encoding)

    def opening(self, record: logging.LogRecord) -> str:
        """Time and level, as much of them as the reader lacks."""
        if self.in_journal:
            return ""
        if self.on_terminal:
            clock = time.strftime("%H:%M:%SZ", time.gmtime(record.created))
            return f"{clock} {record.levelname:<8} "
        return f"{utc(record.created)} {record.levelname} "


def foreign_message(record: logging.LogRecord) -> str:
    """The message of a library's record, even if its arguments do not fit."""
    try:
        return record.getMessage()
    except Exception:  # whatever a stranger's __str__ raises
        return text_of(record.msg)


def format_traceback(record: logging.LogRecord) -> str:
    """The traceback of a record, empty if it has none."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    try:
        return logging.Formatter().formatException(record.exc_info)
    except Exception:  # an exception whose own __str__ raises
        return f"<unprintable {record.exc_info[0].__name__}>"


# --- lines ----------------------------------------------------------------------------------------


def text_line(message: str, fields: Mapping[str, Any]) -> str:
    """`message key=value key2="quoted value"`, in one printable line."""
    parts = [printable(text_of(message))]
    parts += [f"{name_of(key)}={quoted(cut(text_of(value)))}" for key, value in fields.items()]
    return " ".join(parts)


def json_line(
    created: float,
    level: str,
    logger: str,
    message: str,
    fields: Mapping[str, Any],
    traceback: str = "",
) -> str:
    """One JSON object in ASCII; a field called like a key of ours gets an underscore behind."""
    line: dict[str, Any] = {
        "time": utc(created),
        "level": level,
        "logger": logger,
        "message": whole(text_of(message)),
    }
    for key, value in fields.items():
        name = whole(key)
        while name in RESERVED or (name in line):
            name += "_"
        line[name] = json_value(value)
    if traceback:
        line["traceback"] = whole(traceback)
    return ascii_json(line, (", ", ": "))


def ascii_json(value: object, separators: tuple[str, str] = (",", ":")) -> str:
    """JSON in printable ASCII: what strangers wrote cannot steer a terminal, and every terminal can
    show it."""
    return json.dumps(value, separators=separators).replace("\x7f", "\\u007f")


def utc(seconds: float) -> str:
    """Unix seconds as 2026-01-31T12:00:00.000Z."""
    whole_seconds, milliseconds = divmod(int(seconds * 1000), 1000)
    clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole_seconds))
    return f"{clock}.{milliseconds:03d}Z"


# --- values ---------------------------------------------------------------------------------------

SURROGATES = re.compile("[\ud800-\udfff]")
NEEDS_QUOTES = re.compile(r"""[\s="'\\]""")
ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def text_of(value: object) -> str:
    """`str(value)`, hex for bytes, a note where `str` fails."""
    try:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value).hex()
        return str(value)
    except Exception:  # the value's own code; a log line must not bring a service down
        return f"<unprintable {type(value).__name__}>"


def cut(text: str) -> str:
    """The text, or its first 1,000 characters and how many more there were."""
    if len(text) <= MAX_VALUE:
        return text
    return f"{text[:MAX_VALUE]}...(+{len(text) - MAX_VALUE})"


def quoted(text: str) -> str:
    """The text of a value, in quotes and escaped if a reader could misunderstand it bare."""
    if text and text.isprintable() and not NEEDS_QUOTES.search(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(escaped)}"'


def printable(text: str) -> str:
    """The text with control, format and separator characters and surrogates escaped."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else escape(each) for each in text)


def escape(character: str) -> str:
    """A character in the notation of Python's literals."""
    return ESCAPES.get(character) or character.encode("unicode_escape").decode()


def name_of(key: str) -> str:
    """A field's name that cannot be taken for anything else."""
    return re.sub(r"[^\w.-]", "_", key) or "_"


def whole(text: str) -> str:
    """The text with lone surrogates replaced: strict JSON readers refuse them."""
    return SURROGATES.sub("\ufffd", text)


def json_value(value: object) -> Any:
    """The value as JSON has it, as text where JSON has no word for it or it is too long."""
    try:
        if value is None or isinstance(value, (int, float, list, tuple, dict)):
            encoded = json.dumps(value, default=text_of, allow_nan=False, ensure_ascii=False)
            if len(encoded) <= MAX_VALUE:
                return json.loads(whole(encoded))
    except Exception:  # not finite, cyclic, too deep, too many digits, strange keys
        return whole(cut(text_of(value)))
    return whole(cut(text_of(value)))
