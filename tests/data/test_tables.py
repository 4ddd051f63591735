"""The one reader and writer of tables."""

import pytest

from sb_margins.data.tables import read_table, write_table
from sb_margins.errors import UserError


def test_round_trip(tmp_path):
    path = tmp_path / "t.csv"
    rows = [["a b", 'say "no", please', "é\nü"], ["1", "", "x"]]
    write_table(path, ["name", "text", "more"], rows)
    assert path.read_bytes().count(b"\r") == 0
    read = list(read_table(path, text=("words", "text"), name=("name",)))
    assert [row.known for row in read] == [
        {"text": 'say "no", please', "name": "a b"},
        {"text": "", "name": "1"},
    ]
    assert [row.others for row in read] == [{"more": "é\nü"}, {"more": "x"}]
    assert [row.line for row in read] == [3, 4]


def test_tables_as_people_have_them(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffid,name,\r\n1,Zoë,?\r\n2\r\n3,x,y,z\r\n".encode())
    read = list(read_table(path, id=("id",), name=("name",), age=("age", "")))
    assert [tuple(row.known.values()) for row in read] == [
        ("1", "Zoë", ""),
        ("2", "", ""),
        ("3", "x", ""),
    ]
    assert all(row.others == {} for row in read)


@pytest.mark.parametrize("text", ["", "name,age\n", "a,b\n1,2\n"])
def test_missing_columns_are_named(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError, match="t.csv has no column id or ID; it has: "):
        list(read_table(path, id=("id", "ID")))
    path.write_bytes(b"id\n\xff\n")
    with pytest.raises(UserError, match="not UTF-8"):
        list(read_table(path, id=("id",)))
