"""Which tables a dump is loaded into, how its rows get there, and which dump may stand for a database."""

from __future__ import annotations

import bz2
import gzip
import lzma
import pathlib

import pytest
from peat import schema
from peat.backup import check_backup, newest_backup
from peat.dump import DumpError
from peat.dumpreader import Create, Insert
from peat.loader import LoadError, fingerprint, layout, portions

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures/relstorage-1.4-history-preserving.sql.gz"
NEWEST = 291944468761194205


def creates(generation="peat2", keep_history=True, **changes):
    found = {t.name: tuple(c.name for c in t.columns) for t in schema.tables(generation, keep_history)}
    found.update(changes)
    return {name: Create(None, name, columns, None) for name, columns in found.items() if columns}


def columns(made, table):
    return [c.name for c in next(t for t in made if t.name == table).columns]


OLD = ("zoid", "tid", "prev_tid", "md5", "state")


def test_a_dump_of_1_4_gets_the_tables_of_1_4():
    keep_history, made = layout(creates(object_state=OLD, blob_chunk=()))
    assert keep_history
    assert columns(made, "object_state") == list(OLD)
    assert "blob_chunk" not in [t.name for t in made]


def test_sizes_of_a_dump_are_not_trusted():
    """The column may be NULL, so that a migration looks at every size again."""
    _, made = layout(creates())
    states = next(t for t in made if t.name == "object_state")
    assert {c.name: c.null for c in states.columns}["state_size"]


def test_a_dump_of_4_becomes_peats():
    _, made = layout(creates("relstorage4"))
    assert columns(made, "transaction")[2] == "empty"
    assert schema.LOCK_TABLE not in [t.name for t in made]
    assert [t.name for t in made if not t.transactional] == list(schema.NON_TRANSACTIONAL)


def test_a_dump_of_1_0_lacks_columns_that_have_a_default():
    columns_10 = ("tid", "packed", "username", "description", "extension")
    _, made = layout(creates(object_state=OLD, blob_chunk=(), transaction=columns_10, pack_state=(), pack_state_tid=()))
    assert "empty" in columns(made, "transaction")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"pages": Create(None, "pages", ("id",), None)}, "no RelStorage database: its tables are pages"),
        (creates(transaction=()), "lacks the table transaction"),
        (creates(object_state=("zoid", "tid", "state")), r"missing columns \['prev_tid'\]"),
        (creates(transaction=("tid", "packed", "username", "description", "mood")), r"unknown columns \['mood'\]"),
    ],
)
def test_a_dump_of_something_else_is_refused(found, words):
    with pytest.raises(LoadError, match=words):
        layout(found)


def insert(*rows: bytes) -> Insert:
    text, places = b"INSERT INTO transaction VALUES ", []
    for row in rows:
        places.append((len(text), len(text) + len(row)))
        text += row + b","
    return Insert(None, "transaction", (), text, tuple(places))


def test_rows_go_in_statements_that_the_server_accepts():
    head = b"INSERT INTO `transaction` (`tid`, `empty`) VALUES "
    made = list(portions(insert(b"(1,0)", b"(2,0)", b"(3,0)"), ("tid", "empty"), len(head) + 12))
    assert made == [head + b"(1,0),(2,0)", head + b"(3,0)"]


def test_a_row_that_is_too_large_says_what_the_server_needs():
    with pytest.raises(LoadError, match="max_allowed_packet to at least 5096"):
        list(portions(insert(b"(" + b"1" * 998 + b")"), ("tid",), 500))


# Backups


def test_a_complete_dump_with_the_newest_transaction_is_a_backup():
    check_backup(str(FIXTURE), ["object_state", "transaction"], NEWEST)


def test_an_older_dump_is_none_whatever_its_date():
    with pytest.raises(DumpError, match=f"lacks the newest transaction, {NEWEST + 1}"):
        check_backup(str(FIXTURE), ["object_state"], NEWEST + 1)


def test_part_of_a_number_is_not_the_number():
    with pytest.raises(DumpError, match="newest transaction"):
        check_backup(str(FIXTURE), ["object_state"], NEWEST // 10)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, bytes])
def test_packed_dumps(tmp_path, pack):
    path = tmp_path / "dump"
    path.write_bytes(pack(gzip.decompress(FIXTURE.read_bytes())))
    check_backup(str(path), ["object_state"], NEWEST)


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.999])
def test_a_cut_dump_is_none(tmp_path, cut):
    whole = gzip.decompress(FIXTURE.read_bytes())
    path = tmp_path / "dump.sql"
    path.write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(DumpError, match=r"ends too early|lacks"):
        check_backup(str(path), ["object_state"])


def test_a_cut_archive_is_none(tmp_path):
    path = tmp_path / "dump.sql.gz"
    path.write_bytes(FIXTURE.read_bytes()[:-4000])
    with pytest.raises(DumpError, match="cannot be read"):
        check_backup(str(path), ["object_state"])


def test_a_dump_of_other_tables_is_none():
    with pytest.raises(DumpError, match="lacks the tables blob_chunk"):
        check_backup(str(FIXTURE), ["blob_chunk"])


def test_newest_backup_of_the_very_database(tmp_path):
    for name in ("lab-20260101T000000Z", "lab-20260301T000000Z", "lab2-20260401T000000Z", "lab-x-20270101T000000Z"):
        (tmp_path / f"{name}.sql.gz").touch()
    assert newest_backup(str(tmp_path), "lab") == str(tmp_path / "lab-20260301T000000Z.sql.gz")
    assert newest_backup(str(tmp_path), "none") is None


def test_fingerprint_is_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"x")
    (tmp_path / "c").write_bytes(b"y")
    a, b, c = (fingerprint(str(tmp_path / name)) for name in "abc")
    assert a == b != c
