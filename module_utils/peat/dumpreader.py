"""What an SQL dump of an old server says about RelStorage's tables, as a stream.

A dump is a program: it can drop tables, create accounts, call whatever its server had, and what an old
server accepted a new one may refuse (TYPE=, removed SQL modes, DEFINER of an account that is not there).
So nothing of it is executed. CREATE TABLE is read for its columns, INSERT for its rows; everything else
is passed over. Only literal values are let through.

Read are dumps of mysqldump, mariadb-dump and phpMyAdmin, with or without `--hex-blob`, column lists,
`--databases`. Not read are dumps made under NO_BACKSLASH_ESCAPES.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_CHUNK = 1 << 20
#: What can end a statement or hide its end.
_SPECIAL = re.compile(rb"['\"`;#]|--(?=[ \t\r\n])|/\*")
_CLOSERS = {quote: re.compile(b"[" + quote + rb"\\]") for quote in (b"'", b'"', b"`")}
_DELIMITER = re.compile(rb"DELIMITER[ \t]+(\S+)[ \t]*\r?\n", re.IGNORECASE)
_NOT_BLANK = re.compile(rb"\S")
_NAME = rb"(?:`((?:[^`]|``)+)`|([\w$]+))"
_TABLE = rb"(?:" + _NAME + rb"\s*\.\s*)?" + _NAME
_CREATE = re.compile(rb"CREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?" + _TABLE + rb"\s*\(", re.IGNORECASE)
_INSERT = re.compile(
    rb"(?:INSERT|REPLACE)\s+(?:(?:IGNORE|DELAYED|LOW_PRIORITY|HIGH_PRIORITY)\s+)*INTO\s+"
    + _TABLE
    + rb"\s*(?:\(([^()]*)\)\s*)?VALUES?\s*",
    re.IGNORECASE,
)
_USE = re.compile(rb"USE\s+" + _NAME + rb"\s*$", re.IGNORECASE)
_NOT_A_COLUMN = (b"PRIMARY", b"KEY", b"UNIQUE", b"INDEX", b"CONSTRAINT", b"FOREIGN", b"CHECK", b"FULLTEXT", b"SPATIAL")
#: A value that is not a string, or what stands before one.
_PLAIN = re.compile(rb"\s*(?:(NULL|0x[0-9A-F]+|-?\d+(?:\.\d+)?)|(_binary\s*|x)?(?=['\"]))\s*", re.IGNORECASE)


class DumpFormatError(Exception):
    """The dump cannot be understood; says where and what to do."""


@dataclass(frozen=True)
class Create:
    """A table of the dump; database is None where the dump names none."""

    database: str | None
    table: str
    columns: tuple[str, ...]
    auto_increment: int | None


@dataclass(frozen=True)
class Insert:
    """Rows of a table: (start, end) of each tuple in `statement`; columns is () if not named."""

    database: str | None
    table: str
    columns: tuple[str, ...]
    statement: bytes
    rows: tuple[tuple[int, int], ...]


def read(stream: BinaryIO) -> Iterator[Create | Insert]:
    """Return the tables and rows of a dump in their order. Raises DumpFormatError, and OSError as `stream`."""
    database = None
    for statement in statements(stream):
        head = statement[:6].upper()
        if head.startswith(b"USE"):
            used = _USE.match(statement)
            database = _text(used.groups()) if used else database
        elif head == b"CREATE":
            found = _CREATE.match(statement)
            if found:
                yield _create(statement, found, database)
        elif head in (b"INSERT", b"REPLAC"):
            found = _INSERT.match(statement)
            if not found:
                raise DumpFormatError(f"not a plain INSERT of values: {_start(statement)}")
            yield Insert(
                _text(found.groups()[:2]) or database,
                _text(found.groups()[2:4]),
                _column_list(found.group(5)),
                statement,
                tuple(_rows(statement, found.end())),
            )


def statements(stream: BinaryIO) -> Iterator[bytes]:
    """Split a dump at its semicolons; comments before a statement and other delimiters' parts are left out."""
    buffer, position, start = bytearray(), 0, 0

    def more() -> bool:
        chunk = stream.read(_CHUNK)
        buffer.extend(chunk)
        return bool(chunk)

    def find(pattern: re.Pattern, at: int) -> re.Match | None:
        """Search from `at`, reading on as needed; only what is new is searched again."""
        while True:
            found = pattern.search(buffer, at)
            # What stands at the very end may be the beginning of something longer.
            if found and (found.end() + 3 < len(buffer) or not more()):
                return pattern.search(buffer, at)
            if not found:
                at = max(at, len(buffer) - 16)
                if not more():
                    return pattern.search(buffer, at)

    def text(begin: int, end: int) -> bytes:
        return bytes(buffer[begin:end]).strip()

    while True:
        # At the beginning of a statement nothing but space has been read.
        if not text(start, position):
            blank = find(_NOT_BLANK, position)
            here = blank.start() if blank else len(buffer)
            while len(buffer) - here < 64 and more():
                pass
            named = _DELIMITER.match(buffer, here)
            if named and named.group(1) != b";":
                back = find(re.compile(rb"\nDELIMITER[ \t]+;[ \t]*\r?\n", re.IGNORECASE), named.end() - 1)
                if back is None:
                    return
                start = position = back.end()
                continue
        found = find(_SPECIAL, position)
        if found is None:
            rest = text(start, len(buffer))
            if rest:
                yield rest
            return
        mark, at = found.group(), found.end()
        if mark == b";":
            statement = text(start, found.start())
            del buffer[:at]
            position = start = 0
            if statement:
                yield statement
        elif mark in _CLOSERS:
            position = _close(find, buffer, _CLOSERS[mark], at)
        else:
            closer = re.compile(rb"\*/") if mark == b"/*" else re.compile(rb"\n")
            end = find(closer, at)
            position = end.end() if end else len(buffer)
            if not text(start, found.start()):
                start = position
                # So that comments do not pile up in front of a statement.
                del buffer[:start]
                position = start = 0


def _close(find, buffer: bytearray, closer: re.Pattern, at: int) -> int:
    """Return the position after a string or name whose content begins at `at`."""
    while True:
        found = find(closer, at)
        if found is None:
            raise DumpFormatError(
                f"a text that begins at {_start(bytes(buffer[max(at - 40, 0) : at + 20]))} does not end"
            )
        at = found.end() + (1 if found.group() == b"\\" else 0)
        if found.group() != b"\\":
            # A doubled quote is two texts one after the other, for whoever looks for the end only.
            return at


def _create(statement: bytes, found: re.Match, database: str | None) -> Create:
    columns, depth, item, at = [], 1, found.end(), found.end()
    marks = re.compile(rb"[(),]|'(?:[^'\\]|\\.|'')*'|`(?:[^`]|``)*`", re.DOTALL)
    while depth:
        mark = marks.search(statement, at)
        if mark is None:
            raise DumpFormatError(f"CREATE TABLE does not end: {_start(statement)}")
        at = mark.end()
        letter = mark.group()
        depth += {b"(": 1, b")": -1}.get(letter, 0)
        if (letter == b"," and depth == 1) or depth == 0:
            name = re.match(rb"\s*" + _NAME, statement[item : mark.start()])
            if name and (name.group(1) or name.group(2).upper() not in _NOT_A_COLUMN):
                columns.append(_text(name.groups()))
            item = at
    auto = re.search(rb"AUTO_INCREMENT\s*=\s*(\d+)", statement[at:], re.IGNORECASE)
    return Create(
        _text(found.groups()[:2]) or database,
        _text(found.groups()[2:4]),
        tuple(columns),
        int(auto.group(1)) if auto else None,
    )


def _rows(statement: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Return where each row begins and ends; every value must be a literal."""
    opening, between = re.compile(rb"\s*\("), re.compile(rb"([,)])")
    while True:
        opened = opening.match(statement, at)
        if not opened:
            raise DumpFormatError(f"not a row of values at {_start(statement[at : at + 60])} in {_start(statement)}")
        begin, at = opened.end() - 1, opened.end()
        while True:
            at = _value(statement, at)
            end = between.match(statement, at)
            if not end:
                raise DumpFormatError(f"not a plain value at {_start(statement[at : at + 60])} in {_start(statement)}")
            at = end.end()
            if end.group(1) == b")":
                break
        yield begin, at
        rest = re.compile(rb"\s*(,?)\s*").match(statement, at)
        at = rest.end()
        if not rest.group(1):
            if at != len(statement):
                raise DumpFormatError(f"not a plain INSERT of values: {_start(statement[at:])} after the rows")
            return


def _value(statement: bytes, at: int) -> int:
    """Return the position after one literal value and the space behind it."""
    found = _PLAIN.match(statement, at)
    if not found:
        raise DumpFormatError(f"not a plain value at {_start(statement[at : at + 60])} in {_start(statement)}")
    at = found.end()
    if found.group(1):
        return at
    quote = statement[at : at + 1]
    closer = _CLOSERS[quote]
    at += 1
    while True:
        end = closer.search(statement, at)
        if end is None:
            raise DumpFormatError(f"a text does not end in {_start(statement)}")
        at = end.end()
        if end.group() == b"\\" or statement[at : at + 1] == quote:
            at += 1
        else:
            break
    while statement[at : at + 1] in (b" ", b"\n", b"\r", b"\t"):
        at += 1
    return at


def _column_list(text: bytes | None) -> tuple[str, ...]:
    return tuple(_text(found) for found in re.findall(_NAME, text)) if text else ()


def _text(groups: tuple) -> str | None:
    """Return the name in whichever of the two groups of _NAME matched."""
    quoted, plain = groups
    if quoted is not None and quoted != b"":
        return quoted.replace(b"``", b"`").decode("utf-8", "replace")
    return plain.decode() if plain else None


def _start(statement: bytes) -> str:
    return repr(statement[:60].decode("utf-8", "replace"))
