"""Dumps of old servers: read as data, whatever their server and program wrote around it."""

from __future__ import annotations

import gzip
import io
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peat import dumpreader
from peat.dumpreader import Create, DumpFormatError, Insert, read, statements

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"

# As mysqldump 4.1 to 5.0 wrote it: TYPE, latin1, DEFINER, other delimiters, modes that are gone.
OLD = rb"""-- MySQL dump 10.9
/*!40101 SET NAMES latin1 */;
/*!40111 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_CREATE_USER,NO_FIELD_OPTIONS' */;
CREATE DATABASE /*!32312 IF NOT EXISTS*/ `hewl` /*!40100 DEFAULT CHARACTER SET latin1 */;
USE `hewl`;
DROP TABLE IF EXISTS `object_state`;
CREATE TABLE `object_state` (
  `zoid` bigint(20) NOT NULL default '0',
  `tid` bigint(20) NOT NULL default '0',
  `note` varchar(9) default 'a),(`b`',
  `state` longblob,
  PRIMARY KEY  (`zoid`,`tid`),
  KEY `object_state_tid` (`tid`)
) TYPE=InnoDB AUTO_INCREMENT=42 DEFAULT CHARSET=latin1;
/*!40000 ALTER TABLE `object_state` DISABLE KEYS */;
LOCK TABLES `object_state` WRITE;
INSERT INTO `object_state` VALUES (1,2,NULL,'semi;colon \' quote '' and \\'),(3,-4,'x',0x00FF);
UNLOCK TABLES;
/*!50003 CREATE*/ /*!50017 DEFINER=`boss`@`gone`*/ /*!50003 TRIGGER t BEFORE INSERT ON t FOR EACH ROW SET @a=';' */;
DELIMITER ;;
CREATE DEFINER=`boss`@`gone` PROCEDURE `p`()
BEGIN
  INSERT INTO `object_state` SELECT * FROM mysql.user;
END ;;
DELIMITER ;
GRANT ALL ON *.* TO 'evil'@'%';
# -- Dump completed
INSERT INTO other VALUES (1) ;
-- Dump completed on 2009-11-01 12:00:00
"""


def items(text: bytes):
    return list(read(io.BytesIO(text)))


def rows(insert: Insert) -> list[bytes]:
    return [insert.statement[a:b] for a, b in insert.rows]


def test_an_old_dump_is_its_tables_and_rows():
    create, insert, other = items(OLD)
    assert create == Create("hewl", "object_state", ("zoid", "tid", "note", "state"), 42)
    assert (insert.database, insert.table, insert.columns) == ("hewl", "object_state", ())
    assert rows(insert) == [rb"(1,2,NULL,'semi;colon \' quote '' and \\')", b"(3,-4,'x',0x00FF)"]
    assert other.table == "other"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 64, 1000])
def test_it_does_not_matter_where_the_stream_is_cut(monkeypatch, size):
    whole = items(OLD)
    monkeypatch.setattr(dumpreader, "_CHUNK", size)
    assert items(OLD) == whole


@pytest.mark.parametrize(
    "text",
    [
        b"INSERT INTO t SELECT * FROM mysql.user;",
        b"INSERT INTO t VALUES (LOAD_FILE('/etc/shadow'));",
        b"INSERT INTO t VALUES ((SELECT 1));",
        b"INSERT INTO t VALUES (1) ON DUPLICATE KEY UPDATE a=SLEEP(9);",
        b"INSERT INTO t VALUES (1), 2;",
        b"INSERT INTO t VALUES ('a;",
        b"INSERT INTO t SET a=1;",
        b"REPLACE INTO t VALUES (@@version);",
        b"CREATE TABLE t (a int, b varchar(3;",
    ],
)
def test_anything_but_literal_rows_is_refused(text):
    with pytest.raises(DumpFormatError):
        items(text)


@pytest.mark.parametrize(
    ("text", "database", "table", "columns"),
    [
        (b"INSERT INTO `a``b` (`x`, y) VALUES (1,2)", None, "a`b", ("x", "y")),
        (b"insert ignore into db.t values(1)", "db", "t", ()),
        (b"INSERT  IGNORE INTO `db`.`t` VALUES\n(1),\n(_binary 'x\\0y'),\n(x'00ff'),('a' )", "db", "t", ()),
        (b"REPLACE INTO t VALUES (1.5)", None, "t", ()),
    ],
)
def test_kinds_of_insert(text, database, table, columns):
    (insert,) = items(text)
    assert (insert.database, insert.table, insert.columns) == (database, table, columns)
    assert insert.rows


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8), st.sampled_from([1, 5, 1 << 20]))
def test_any_bytes_survive_as_old_programs_escaped_them(values, chunk):
    """mysqldump without --hex-blob escapes NUL, newline, return, backslash, quotes and Ctrl-Z."""
    escapes = {0: b"\\0", 10: b"\\n", 13: b"\\r", 92: b"\\\\", 39: b"\\'", 34: b'\\"', 26: b"\\Z"}
    escaped = [b"('" + b"".join(escapes.get(c, bytes([c])) for c in value) + b"')" for value in values]
    before = dumpreader._CHUNK
    try:
        dumpreader._CHUNK = chunk
        first, second = items(b"INSERT INTO t VALUES " + b",".join(escaped) + b";\nINSERT INTO u VALUES (1);")
    finally:
        dumpreader._CHUNK = before
    assert rows(first) == escaped
    assert second.table == "u"


def test_memory_is_a_statement_not_the_dump():
    """The reader holds one statement at a time, however many comments and statements there are."""

    class Endless(io.RawIOBase):
        left = 3000

        def read(self, size=-1):
            self.left -= 1
            return b"-- comment\nINSERT INTO t VALUES (0x" + b"ab" * 5000 + b");\n" if self.left > 0 else b""

    import tracemalloc

    tracemalloc.start()
    assert sum(len(i.rows) for i in read(Endless())) == 2999
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


@pytest.mark.parametrize(("name", "expected"), [
    ("preserving", {"current_object": 1600, "new_oid": 2, "object_state": 1666, "transaction": 14}),
    ("free", {"new_oid": 8, "object_state": 101}),
])  # fmt: skip
def test_the_fixtures(name, expected):
    found: dict[str, int] = {}
    with gzip.open(FIXTURES / f"relstorage-1.4-history-{name}.sql.gz") as stream:
        for item in read(stream):
            if isinstance(item, Insert):
                found[item.table] = found.get(item.table, 0) + len(item.rows)
    assert found == expected


def test_statements_end_at_their_semicolon_only():
    text = b"a ';' \"; \" `;` /* ; */ b; -- ;\n c # ;\n ; d"
    assert list(statements(io.BytesIO(text))) == [b"a ';' \"; \" `;` /* ; */ b", b"c # ;", b"d"]
