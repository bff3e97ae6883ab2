"""The log: its lines, for every reader, and that no value can break or forge one."""

import io
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigbrotr.core.logger import Logger, configure, is_journal, text_line

HOSTILE = "x\n<0>CRITICAL finder: forged\r\x1b[31m\x9b\u2028\u202e\x00"


class Nasty:
    """A value whose every conversion fails."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("bigbrotr")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def logged(stream: IO[str] | None = None, **options: Any) -> tuple[Logger, io.StringIO]:
    """A logger, and the stream that everything goes to; pytest's own handlers are put aside."""
    logging.getLogger().handlers.clear()
    target = stream if isinstance(stream, io.StringIO) else io.StringIO()
    configure(stream=target, **{"level": "DEBUG", **options})
    return Logger("finder"), target


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "k=plain"),
        ("wss://relay.example.com/x?y", "k=wss://relay.example.com/x?y"),
        (5, "k=5"),
        (1.5, "k=1.5"),
        (True, "k=True"),
        (None, "k=None"),
        ("", 'k=""'),
        ("a b", 'k="a b"'),
        ("a=b", 'k="a=b"'),
        ('a"b', r'k="a\"b"'),
        ("a'b", 'k="a\'b"'),
        ("a\\b", r'k="a\\b"'),
        ("a\nb\tc", r'k="a\nb\tc"'),
        ("\x1b[0m", r'k="\x1b[0m"'),
        ("\u2028\u202e\x85\ud800", r'k="\u2028\u202e\x85\ud800"'),
        ("ä€💩", "k=ä€💩"),
        (b"\x00\xff", "k=00ff"),
        (b"", 'k=""'),
        (["a", 1], "k=\"['a', 1]\""),
        ("x" * 1000, "k=" + "x" * 1000),
        ("x" * 1234, "k=" + "x" * 1000 + "...(+234)"),
        ("\n" * 1001, 'k="' + "\\n" * 1000 + '...(+1)"'),
        (Nasty(), 'k="<unprintable Nasty>"'),
    ],
)
def test_values(value: object, shown: str) -> None:
    assert text_line("event", {"k": value}) == f"event {shown}"


def test_a_line() -> None:
    log, stream = logged()
    log.info("relay found", relay="wss://relay.example.com", source="the web", n=3)
    time_, rest = stream.getvalue().split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time_)
    assert rest == ('INFO finder: relay found relay=wss://relay.example.com source="the web" n=3\n')


def test_every_level() -> None:
    log, stream = logged()
    for name in ("debug", "info", "warning", "error", "critical", "exception"):
        getattr(log, name)("m", k=name)
    lines = [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines == [
        "DEBUG finder: m k=debug",
        "INFO finder: m k=info",
        "WARNING finder: m k=warning",
        "ERROR finder: m k=error",
        "CRITICAL finder: m k=critical",
        "ERROR finder: m k=exception",
    ]


def test_nothing_is_formatted_below_the_level() -> None:
    class Counted:
        shown = 0

        def __str__(self) -> str:
            Counted.shown += 1
            return "x"

    log, stream = logged(level="warning")
    log.debug("m", k=Counted())
    log.info("m", k=Counted())
    assert (Counted.shown, stream.getvalue()) == (0, "")
    log.warning("m", k=Counted())
    assert Counted.shown == 1


def test_any_name_may_be_a_field_and_percent_signs_are_text() -> None:
    log, stream = logged()
    log.info("100%s {x}", message="a", level="b", self="c", exc_info="d", **{"bad name=": "e"})
    assert stream.getvalue().endswith(
        "finder: 100%s {x} message=a level=b self=c exc_info=d bad_name_=e\n"
    )


def test_bound_fields() -> None:
    log, stream = logged()
    bound = log.bind(relay="r", n=1).bind(n=2)
    bound.info("m", extra="x")
    bound.info("m", n=3)
    log.info("m")
    lines = [line.split(": ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines == ["m relay=r n=2 extra=x", "m relay=r n=3", "m"]
    assert (bound.name, bound.json_output) == ("finder", False)


def test_exception_adds_the_traceback_behind_a_bar() -> None:
    log, stream = logged()
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("failed", relay="r")
    first, *others = stream.getvalue().splitlines()
    assert first.endswith("ERROR finder: failed relay=r")
    assert others[0] == "  | Traceback (most recent call last):"
    assert any("ValueError: x" in line for line in others)
    assert all(line.startswith("  | ") and line.isprintable() for line in others)


def test_works_with_anybodys_handler(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="bigbrotr"):
        Logger("bigbrotr.core.pool").info("connected", size=5, name="a b")
        Logger("monitor", json_output=True).info("probed", rtt_ms=5)
    assert [record.name for record in caplog.records] == ["bigbrotr.core.pool", "bigbrotr.monitor"]
    assert caplog.messages[0] == 'connected size=5 name="a b"'
    assert json.loads(caplog.messages[1])["rtt_ms"] == 5
    assert caplog.records[0].funcName == "test_works_with_anybodys_handler"


# --- readers --------------------------------------------------------------------------------------


def test_on_a_terminal() -> None:
    log, stream = logged(Terminal())
    log.info("m", k=1)
    assert re.fullmatch(r"\d\d:\d\d:\d\dZ INFO     finder: m k=1\n", stream.getvalue())


def test_in_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w+", encoding="utf-8") as stream:
        stat = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
        configure("DEBUG", stream=stream)
        log = Logger("finder")
        log.debug("d", k=1)
        log.info("i")
        log.warning("w")
        try:
            raise ValueError("x\n<0>y")
        except ValueError:
            log.exception("e")
        log.critical("c", k=HOSTILE)
        stream.seek(0)
        lines = stream.read().splitlines()
    assert lines[:4] == ["<7>finder: d k=1", "<6>finder: i", "<4>finder: w", "<3>finder: e"]
    assert all(line.startswith("<3>  | ") for line in lines[4:-1])
    assert lines[-1].startswith("<2>finder: c k=")


def test_the_journal_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    assert not is_journal(io.StringIO())
    with Path(os.devnull).open("w", encoding="utf-8") as stream:
        assert not is_journal(stream)


def test_a_stream_that_cannot_hold_every_character() -> None:
    raw = io.BytesIO()
    configure(stream=io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    Logger("finder").info("ä", k="💩")
    assert raw.getvalue().endswith(b"INFO finder: \\xe4 k=\\U0001f4a9\n")


def test_configuring_again_replaces() -> None:
    _, first = logged()
    log, second = logged(level=logging.ERROR)
    log.warning("w")
    log.error("e")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1
    with pytest.raises(ValueError, match="unknown log level 'LOUD': one of DEBUG, INFO"):
        configure("LOUD")


def test_libraries_speak_through_the_same_handler() -> None:
    _, stream = logged()
    library = logging.getLogger("some.library")
    library.info("unheard")
    library.warning("got %r from %s", HOSTILE, "a relay")
    library.warning("%s", HOSTILE)
    library.warning("%d", "not a number")
    library.warning(Nasty())
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert all("WARNING some.library: " in line and line.isprintable() for line in lines)


# --- JSON -----------------------------------------------------------------------------------------


def test_json_lines() -> None:
    log, stream = logged(json_output=True)
    before = time.time()
    log.info(
        "synced", relay="wss://relay.example.com", n=3, ok=True, none=None, ids=[1, {"a": "💩"}]
    )
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("failed")
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert list(first)[:4] == ["time", "level", "logger", "message"]
    assert first.pop("time")[:16] == time.strftime("%Y-%m-%dT%H:%M", time.gmtime(before))
    assert first == {
        "level": "INFO",
        "logger": "finder",
        "message": "synced",
        "relay": "wss://relay.example.com",
        "n": 3,
        "ok": True,
        "none": None,
        "ids": [1, {"a": "💩"}],
    }
    assert second["level"] == "ERROR"
    assert second["traceback"].startswith("Traceback (most recent call last):")


def test_one_logger_alone_in_json() -> None:
    _, stream = logged()
    Logger("monitor", json_output=True).bind(a=1).warning("m", b="x y")
    line = json.loads(stream.getvalue())
    assert (line["logger"], line["message"], line["a"], line["b"]) == ("monitor", "m", 1, "x y")


def test_clashing_names_get_an_underscore() -> None:
    log, stream = logged(json_output=True)
    log.info("m", message=1, message_=2, time=3, level=4, logger=5, traceback=6)
    line = json.loads(stream.getvalue())
    assert line["message"] == "m"
    assert (line["message_"], line["message__"]) == (1, 2)
    assert (line["time_"], line["level_"], line["logger_"], line["traceback_"]) == (3, 4, 5, 6)


def test_strange_values_in_json() -> None:
    log, stream = logged(json_output=True)
    cyclic: list[object] = []
    cyclic.append(cyclic)
    log.info(
        "m",
        nan=float("nan"),
        huge=10**5000,
        data=b"\x01",
        nasty=Nasty(),
        inside=[Nasty(), b"\x02"],
        cyclic=cyclic,
        keys={(1, 2): 3},
        long="x" * 1001,
        longer=["x" * 1001],
        half="\ud800",
        halves=["\ud800", "💩"],
    )
    text = stream.getvalue()
    assert text.isascii()
    line = json.loads(text)
    assert line["nan"] == "nan"
    assert line["huge"] == "<unprintable int>"
    assert line["data"] == "01"
    assert line["nasty"] == "<unprintable Nasty>"
    assert line["inside"] == ["<unprintable Nasty>", "02"]
    assert line["cyclic"] == "[[...]]"
    assert line["keys"] == "{(1, 2): 3}"
    assert line["long"] == "x" * 1000 + "...(+1)"
    assert len(line["longer"]) < 1100
    assert line["half"] == "\ufffd"
    assert line["halves"] == ["\ufffd", "💩"]


# --- generated ------------------------------------------------------------------------------------

ANYTHING = st.one_of(
    st.text(st.characters(codec=None, categories=None)),
    st.text(),
    st.binary(),
    st.integers(),
    st.floats(),
    st.none(),
    st.builds(Nasty),
    st.lists(st.text() | st.floats() | st.builds(Nasty)),
    st.dictionaries(st.integers() | st.text(), st.text()),
)
FIELDS = st.dictionaries(st.text(max_size=5), ANYTHING, max_size=3)


def fields_of(line: str) -> dict[str, str]:
    """A reader of `key=value key2="quoted value"`, written apart from the writer."""
    found = re.findall(r'([^\s=]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s"]+))', line)
    return {key: plain or re.sub(r"\\(.)", r"\1", quoted) for key, quoted, plain in found}


@given(st.text("abc =\"'\\", max_size=10))
def test_text_can_be_read_back(value: str) -> None:
    assert fields_of(text_line("event", {"a": value, "b": 1})) == {"a": value, "b": "1"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), FIELDS)
def test_an_event_is_one_printable_line(message: str, fields: dict[str, Any]) -> None:
    log, stream = logged()
    log.info(message, **fields)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert "INFO finder: " in text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), FIELDS)
def test_an_event_is_one_json_object(message: str, fields: dict[str, Any]) -> None:
    log, stream = logged(json_output=True)
    log.info(message, **fields)
    line = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert len(line) == 4 + len(fields)
