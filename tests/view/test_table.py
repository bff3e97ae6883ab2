"""Tables: their columns stand below each other, whatever the characters."""

from bigbrotr.view.table import Column, lay_out


def test_a_table_of_wide_characters() -> None:
    columns = [
        Column("name", ["\u65e5\u672c\u8a9e", "b"], least=4),
        Column("n", ["1", "22"], is_number=True),
    ]
    wide = [line.plain for line in lay_out(columns, None)]
    assert wide == ["name     n", "\u65e5\u672c\u8a9e   1", "b       22"]
    narrow = [line.plain for line in lay_out(columns, 8)]
    assert narrow == ["name   n", "\u65e5 \u2026   1", "b     22"]
