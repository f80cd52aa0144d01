"""A dump is complete, or it is not there."""

from __future__ import annotations

import datetime
import gzip
import stat

import pytest
from peat.dump import DumpError, check_complete, command, dump_path, write_dump

TEXT = "-- a dump\nCREATE TABLE `new_oid` (\n);\nCREATE TABLE `object_state` (\n);\n{end}\n\n"
GOOD = TEXT.format(end="-- Dump completed on 2026-01-02  3:04:05")


@pytest.fixture
def source(tmp_path):
    """A file whose text stands for what the dump program writes."""

    def make(text):
        path = tmp_path / "source.sql"
        path.write_text(text)
        return ["cat", str(path)]

    return make


def test_a_complete_dump_is_kept_for_its_owner_only(tmp_path, source):
    path = tmp_path / "backups/hewl.sql.gz"
    write_dump(source(GOOD), str(path), ["object_state", "new_oid"])
    assert gzip.decompress(path.read_bytes()).decode() == GOOD
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("argv", "text", "tables", "said"),
    [
        (["sh", "-c", "echo no space left >&2; exit 3"], None, [], "sh ended with code 3: no space left"),
        (None, TEXT.format(end=""), ["new_oid"], "ends too early"),
        (None, GOOD, ["new_oid", "pack_state"], "lacks the tables pack_state"),
        (["/nowhere/mariadb-dump"], None, [], "nowhere"),
    ],
)
def test_an_incomplete_dump_leaves_nothing(tmp_path, source, argv, text, tables, said):
    path = tmp_path / "backups/hewl.sql.gz"
    with pytest.raises(DumpError, match=said):
        write_dump(argv or source(text), str(path), tables)
    assert list(path.parent.iterdir()) == []


def test_a_folder_that_cannot_be_is_named(tmp_path, source):
    (tmp_path / "file").touch()
    with pytest.raises(DumpError, match=r"no dump in .*/file/backups: .*Not a directory"):
        write_dump(source(GOOD), str(tmp_path / "file/backups/hewl.sql.gz"), [])


def test_an_existing_dump_is_not_overwritten(tmp_path, source):
    path = tmp_path / "hewl.sql.gz"
    path.write_bytes(b"precious")
    with pytest.raises(DumpError, match="exists already"):
        write_dump(source(GOOD), str(path), [])
    assert path.read_bytes() == b"precious"


def test_a_cut_file_is_found_out(tmp_path):
    path = tmp_path / "hewl.sql.gz"
    path.write_bytes(gzip.compress(GOOD.encode())[:-9])
    with pytest.raises(DumpError, match="cannot be read back"):
        check_complete(str(path), [])


def test_table_names_with_backticks_are_understood(tmp_path):
    path = tmp_path / "odd.sql.gz"
    path.write_bytes(gzip.compress(b"CREATE TABLE `a``b` (\n-- Dump completed\n"))
    check_complete(str(path), ["a`b"])


@pytest.mark.parametrize(("mariadb", "program"), [(True, "mariadb-dump"), (False, "mysqldump")])
def test_the_dump_holds_everything_and_reads_no_option_file(mariadb, program):
    argv = command(mariadb, "/run/mysqld/mysqld.sock", "-odd")
    assert argv[:2] == [program, "--no-defaults"]
    assert {"--single-transaction", "--routines", "--triggers", "--hex-blob"} <= set(argv)
    assert argv[-2:] == ["--", "-odd"]


def test_dump_path():
    now = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    assert dump_path("/var/backups/peat", "hewl", now) == "/var/backups/peat/hewl-20260102T030405Z.sql.gz"
