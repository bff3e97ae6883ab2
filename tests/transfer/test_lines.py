"""Files of lines: packed or not, cut anywhere, with anything in them, their lines keep their
numbers."""

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigbrotr.errors import ConfigError
from bigbrotr.transfer import lines
from bigbrotr.transfer.files import zstd
from bigbrotr.transfer.lines import Source, digest_of

PACKERS: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, zstd.compress]


def read(path: Path) -> tuple[dict[int, bytes], set[int], Source]:
    """The lines of a file by their numbers, those that are too large, and the source."""
    source = Source(str(path))
    found: dict[int, bytes] = {}
    large: set[int] = set()
    try:
        for piece in source.pieces():
            assert piece.data.endswith(b"\n")
            for number, line in enumerate(piece.data.split(b"\n")[:-1], piece.first):
                assert number not in found
                found[number] = line
            large.update(piece.too_large)
    finally:
        source.close()
    return found, large, source


@pytest.mark.parametrize("packer", PACKERS)
def test_any_lines_are_read_as_they_are(
    packer: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "READ", 7)
    monkeypatch.setattr(lines, "PIECE", 20)
    monkeypatch.setattr(lines, "MOST_LINES", 3)
    monkeypatch.setattr(lines, "MAX_LINE", 12)
    path = tmp_path / "lines"

    @settings(
        max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(
        st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=12),
        st.booleans(),
        st.booleans(),
    )
    def check(texts: list[bytes], has_end: bool, has_bom: bool) -> None:
        data = b"\n".join(texts) + (b"\n" if has_end and texts else b"")
        if data.startswith((b"\xef\xbb\xbf", b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
            return
        path.write_bytes(packer((b"\xef\xbb\xbf" if has_bom else b"") + data))
        found, large, source = read(path)
        wanted = data.split(b"\n")
        if not wanted[-1]:
            wanted.pop()
        assert source.damage is None
        assert source.lines == len(found) == len(wanted)
        assert large == {n for n, line in enumerate(wanted, 1) if len(line) > 12}
        for number, line in enumerate(wanted, 1):
            assert found[number] == (line if len(line) <= 12 else b"")
        assert source.sha256 == digest_of(str(path)) == hashlib.sha256(path.read_bytes()).digest()
        assert source.at == source.size

    check()


@pytest.mark.parametrize("packer", PACKERS[1:])
def test_what_is_cut_off_is_read_as_far_as_it_goes(
    packer: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "cut"
    texts = [hashlib.sha256(b"%d" % n).hexdigest().encode() for n in range(20_000)]
    packed = packer(b"\n".join(texts))
    path.write_bytes(packed[: len(packed) // 2])
    found, _, source = read(path)
    assert source.damage
    whole = list(found.values())[:-1]
    assert len(whole) > 1000
    assert whole == texts[: len(whole)]
    assert source.sha256 == digest_of(str(path))
    # Several that were written one after the other are one file.
    path.write_bytes(packer(b"a\n") + packer(b"b\n"))
    assert read(path)[0] == {1: b"a", 2: b"b"}
    path.write_bytes(packer(b"a\n") + b"rubbish")
    found, _, source = read(path)
    assert (found, source.damage is None) == ({1: b"a"}, False)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    for read_it in (Source, digest_of):
        with pytest.raises(ConfigError, match="none cannot be read: No such file"):
            read_it(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="Is a directory"):
        Source(str(tmp_path))
