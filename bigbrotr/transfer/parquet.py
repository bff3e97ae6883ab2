"""Writes and reads tables as Parquet files; needs `pyarrow`, which is optional.

Files of events follow the published schema nostr_event_archive_v1 to the letter: seven required
columns, sorted by (created_at, id), compressed by zstd, with dictionaries and plain values alone,
row groups of about 128 MB, and the format's version in the footer. What the columns mean stands in
the footer, too.
"""

import hashlib
import json
import os
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bigbrotr.errors import BigBrotrError, ConfigError
from bigbrotr.models.event import decode_tags
from bigbrotr.transfer.datasets import FORMAT_KEY, FORMAT_VERSION, Column, Dataset

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

GROUP_BYTES = 128 << 20  # of a row group, uncompressed
SEEN_SINCE = 1_577_836_800  # 2020: when the times of presence begin
READ_ROWS = 5000
DICTIONARIES = {
    *("pubkey", "kind", "relay", "filter", "how", "reason", "network", "state", "outcome", "type"),
    *("document", "tags.list.element.list.element", "day", "group", "software"),
}
NO_STATISTICS = {"content", "tags", "sig", "serialised", "document", "detail"}

# What pyarrow raises, besides errors of its own, where bytes are not what they should be.
_UNREADABLE = (OSError, ValueError, LookupError, OverflowError)


class DamagedError(BigBrotrError):
    """A file is not what it should be; the text says which, and why."""

    exit_code = 1


class Written(NamedTuple):
    """A file that was written."""

    rows: int
    bytes: int
    sha256: str


def require() -> None:
    """Sees that pyarrow is there.

    Raises:
        ConfigError: it is not.
    """
    try:
        import pyarrow.parquet  # noqa: F401 -- optional
    except ImportError as error:
        raise ConfigError(
            f"Parquet files need pyarrow, which is not installed ({error}): install it beside "
            "bigbrotr, from its checkout with `pip install '.[parquet]'`"
        ) from None


def types() -> "dict[str, pyarrow.DataType]":
    """The types that columns may have, by name."""
    import pyarrow as pa

    text = pa.field("element", pa.string(), nullable=False)
    return {
        "fixed(32)": pa.binary(32),
        "fixed(64)": pa.binary(64),
        "binary": pa.binary(),
        "uint64": pa.uint64(),
        "int64": pa.int64(),
        "int32": pa.int32(),
        "uint16": pa.uint16(),
        "float": pa.float32(),
        "double": pa.float64(),
        "bool": pa.bool_(),
        "string": pa.string(),
        "tags": pa.list_(pa.field("element", pa.list_(text), nullable=False)),
    }


def schema(dataset: Dataset) -> "pyarrow.Schema":
    """The columns of a table."""
    import pyarrow as pa

    known = types()
    return pa.schema(
        pa.field(each.name, known[each.type], nullable=each.is_optional) for each in dataset.columns
    )


def footer(dataset: Dataset) -> dict[str, str]:
    """What stands in the footer of a table's files: what it is, and what its columns mean."""
    words = {
        "bigbrotr.dataset": dataset.name,
        "bigbrotr.description": dataset.words,
        "bigbrotr.columns": json.dumps({each.name: each.words for each in dataset.columns}),
    }
    return words | ({FORMAT_KEY: FORMAT_VERSION} if dataset.is_events else {})


class _HashedFile:
    """A new file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o644)
        self._digest = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._digest.update(view)
        self.bytes += view.nbytes
        number = view.nbytes
        while view:
            view = view[os.write(self._descriptor, view) :]
        return number

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """All is with the system at once."""

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.fsync(self._descriptor)
            os.close(self._descriptor)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


class Writer:
    """Writes a table into a new file, some rows at a time. `more` stands in the footer as well."""

    def __init__(self, path: Path, dataset: Dataset, more: Mapping[str, str] | None = None) -> None:
        import pyarrow.parquet as pq

        self._dataset = dataset
        self._schema = schema(dataset)
        self._footer = footer(dataset) | dict(more or {})
        self._file = _HashedFile(path)
        names = [each.name for each in dataset.columns]
        leaves = ["tags.list.element.list.element" if name == "tags" else name for name in names]
        self._writer = pq.ParquetWriter(
            self._file,
            self._schema,
            compression="zstd",
            version="2.6",
            data_page_version="1.0",
            use_dictionary=[name for name in leaves if name in DICTIONARIES],
            write_statistics=[name for name in leaves if name not in NO_STATISTICS],
            store_schema=False,
            sorting_columns=[
                pq.SortingColumn(names.index(each)) for each in dataset.order if "tags" not in names
            ]
            or [pq.SortingColumn(2), pq.SortingColumn(0)],
        )
        self._waiting: list[pyarrow.RecordBatch] = []
        self._bytes = 0
        self.rows = 0

    def write(self, columns: "Sequence[pyarrow.Array]") -> None:
        """Adds rows, in the order of the table."""
        import pyarrow as pa

        batch = pa.RecordBatch.from_arrays(list(columns), schema=self._schema)
        self.rows += batch.num_rows
        self._waiting.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        table = pa.Table.from_batches(self._waiting, schema=self._schema)
        self._waiting, self._bytes = [], 0
        if table.num_rows:
            self._writer.write_table(table, row_group_size=table.num_rows)

    def close(self) -> Written:
        """Ends the file, and has it on the disk."""
        self._write_group()
        self._writer.add_key_value_metadata(self._footer)
        self._writer.close()
        self._file.close()
        return Written(self.rows, self._file.bytes, self._file.sha256)

    def abandon(self) -> None:
        """Gives the file up, as far as it is."""
        self._waiting = []
        self._file.close()


# Rows as columns


def fixed(values: Sequence[bytes], size: int) -> "pyarrow.Array":
    """Values of `size` bytes each."""
    return _fixed(b"".join(values), size)


def _fixed(data: bytes, size: int) -> "pyarrow.Array":
    import pyarrow as pa

    buffers = [None, pa.py_buffer(data)]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(data) // size, buffers)


def tag_lists(texts: "Sequence[Sequence[Sequence[str]]]") -> "pyarrow.Array":
    """The tags of events. To build them flat takes a fifth of what nested lists do."""
    import pyarrow as pa

    known = types()["tags"]
    outer, inner, strings = array("i", [0]), array("i", [0]), list[str]()
    for tags in texts:
        for tag in tags:
            strings += tag
            inner.append(len(strings))
        outer.append(len(inner) - 1)
    values = pa.array(strings, pa.string())
    lists = pa.ListArray.from_arrays(_int32(inner), values, type=known.value_type)
    return pa.ListArray.from_arrays(_int32(outer), lists, type=known)


def _int32(values: "array[int]") -> "pyarrow.Array":
    import pyarrow as pa

    return pa.Array.from_buffers(pa.int32(), len(values), [None, pa.py_buffer(values)])


def event_columns(rows: Sequence[Any]) -> "list[pyarrow.Array]":
    """Rows of `reads.datasets`, whose strings are as they were signed, as columns of `events`."""
    import pyarrow as pa

    exact = [_exactly(row["raw"]) if row["raw"] else None for row in rows]
    tags = [
        decode_tags(row["tags"]) if each is None else each[0]
        for row, each in zip(rows, exact, strict=True)
    ]
    contents = [
        row["content"] if each is None else each[1] for row, each in zip(rows, exact, strict=True)
    ]
    return [
        fixed([row["id"] for row in rows], 32),
        fixed([row["pubkey"] for row in rows], 32),
        pa.array([row["created_at"] for row in rows], pa.uint64()),
        pa.array([row["kind"] for row in rows], pa.uint16()),
        tag_lists(tags),
        pa.array(contents, pa.string()),
        fixed([row["sig"] for row in rows], 64),
    ]


def is_unicode(raw: bytes) -> bool:
    """Whether UTF-8 can hold the strings of what was hashed: it has no lone surrogates."""
    tags, content = _exactly(raw)
    try:
        "".join((content, *(item for tag in tags for item in tag))).encode()
    except UnicodeEncodeError:
        return False
    return True


def _exactly(raw: bytes) -> tuple[list[list[str]], str]:
    # Unescaped control characters are no JSON, but Python can be asked to read them.
    fields = json.JSONDecoder(strict=False).decode(raw.decode())
    return fields[4], fields[5]


def header_columns(rows: Sequence[Any]) -> "list[pyarrow.Array]":
    """Rows of `reads.datasets` as columns of `headers`."""
    import pyarrow as pa

    return [
        fixed([row["id"] for row in rows], 32),
        fixed([row["pubkey"] for row in rows], 32),
        pa.array([row["created_at"] for row in rows], pa.uint64()),
        pa.array([row["kind"] for row in rows], pa.uint16()),
    ]


class Presence:
    """Makes columns of `presence`: relays are numbers in the database, and URLs outside."""

    def __init__(self, relays: Mapping[int, str]) -> None:
        import pyarrow as pa

        self._numbers = pa.array(sorted(relays), pa.int32())
        self._urls = pa.array([relays[number] for number in sorted(relays)], pa.string())

    def columns(self, rows: Sequence[Any]) -> "list[pyarrow.Array]":
        """Rows of `reads.datasets` as pairs of event and relay."""
        import pyarrow as pa
        import pyarrow.compute as pc

        held = [row for row in rows if row["relays"]]
        counts = [len(row["relays"]) // 4 for row in held]
        created_ats, ids = array("Q"), []
        for row, count in zip(held, counts, strict=True):
            created_ats.extend([row["created_at"]] * count)
            ids.append(row["id"] * count)
        numbers = _from_network(b"".join(row["relays"] for row in held))
        seen_ats = _from_network(b"".join(row["seen_ats"] for row in held))
        total = len(created_ats)
        places = pc.index_in(_int32(numbers), value_set=self._numbers)
        return [
            pa.Array.from_buffers(pa.uint64(), total, [None, pa.py_buffer(created_ats)]),
            fixed(ids, 32),
            self._urls.take(places),
            pc.add(_int32(seen_ats).cast(pa.int64()), SEEN_SINCE).cast(pa.uint64()),
        ]


def _from_network(data: bytes) -> "array[int]":
    values = array("i", data)
    if values.itemsize != 4:
        raise RuntimeError("an int of C has four bytes")
    if sys.byteorder == "little":
        values.byteswap()
    return values


def columns(dataset: Dataset, rows: Sequence[Any]) -> "list[pyarrow.Array]":
    """Rows of any table, whose first values are its columns."""
    return [
        _column(column, [row[place] for row in rows])
        for place, column in enumerate(dataset.columns)
    ]


def _column(column: Column, values: list[Any]) -> "pyarrow.Array":
    import pyarrow as pa

    if column.type.startswith("fixed"):
        return fixed(values, int(column.type[6:-1]))
    return pa.array(values, types()[column.type])


# Reading


def read(path: Path, dataset: Dataset, most: int = READ_ROWS) -> Iterator[dict[str, list[Any]]]:
    """The rows of a file, some at a time, as lists by column.

    Raises:
        DamagedError: it is no such file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file, dataset)
            for batch in file.iter_batches(most):
                yield batch.to_pydict()
    except (pa.ArrowException, *_UNREADABLE) as error:
        raise DamagedError(f"{path}: it cannot be read as Parquet: {_first_line(error)}") from None


def _check_columns(path: Path, file: "pyarrow.parquet.ParquetFile", dataset: Dataset) -> None:
    found = file.schema_arrow
    wanted = schema(dataset)
    # As others may write them: nullable, say, or with further columns of their own.
    for field in wanted:
        place = found.get_field_index(field.name)
        if place < 0:
            raise DamagedError(
                f"{path}: there is no column {field.name}: is it of `{dataset.name}`?"
            )
        theirs = found.field(place).type
        if not theirs.equals(field.type) and str(theirs) != str(field.type):
            raise DamagedError(f"{path}: the column {field.name} is of {theirs}, not {field.type}")


def number_of_rows(path: Path, dataset: Dataset) -> int:
    """How many rows a file says that it has.

    Raises:
        DamagedError: it is no such file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file, dataset)
            rows: int = file.metadata.num_rows
            return rows
    except (pa.ArrowException, *_UNREADABLE) as error:
        raise DamagedError(f"{path}: it cannot be read as Parquet: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
