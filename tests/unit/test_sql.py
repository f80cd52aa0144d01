"""Quoting: a name means itself and nothing else, whatever letters it has."""

from __future__ import annotations

import re

import pytest
from peat.sql import NoServer, SqlError, connect, grant_escaped, grant_pattern, literal, quote_name


@pytest.mark.parametrize(
    ("name", "quoted"),
    [("hewl", "`hewl`"), ("hewl_sample", "`hewl_sample`"), ("a`b", "`a``b`"), ("a-b", "`a-b`")],
)
def test_quote_name(name, quoted):
    assert quote_name(name) == quoted


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_quote_name_refuses_what_no_server_accepts(name):
    with pytest.raises(SqlError, match="name of a database object"):
        quote_name(name)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("hewl", "`hewl`"),
        ("hewl_sample", r"`hewl\_sample`"),
        ("100%", r"`100\%`"),
        ("a`_b", r"`a``\_b`"),
        ("a\\_b", r"`a\\\_b`"),
    ],
)
def test_grant_pattern_has_no_wildcards(name, pattern):
    assert grant_pattern(name) == pattern


@pytest.mark.parametrize("name", ["lab_1", "lab%", "l\\ab", "_", "\\_%"])
def test_an_escaped_name_matches_only_itself(name):
    """Read as the server reads it: backslash takes the next letter, _ is one, % is any."""
    regex, letters = "", iter(grant_escaped(name))
    for letter in letters:
        if letter == "\\":
            regex += re.escape(next(letters))
        else:
            regex += {"_": ".", "%": ".*"}.get(letter, re.escape(letter))
    assert re.fullmatch(regex, name)
    assert not re.fullmatch(regex, name.replace("_", "x").replace("%", "xx") + "x")
    assert ".*" not in regex


@pytest.mark.parametrize(
    ("text", "expected"),
    [("plain", "'plain'"), ("o'neil", "'o''neil'"), ("back\\slash'", "'back\\\\slash'''")],
)
def test_literal(text, expected):
    assert literal(text) == expected


def test_literal_refuses_nul():
    with pytest.raises(SqlError, match="NUL"):
        literal("a\0b")


def test_connect_names_the_socket_and_the_remedy(tmp_path):
    with pytest.raises(NoServer, match=r"nowhere\.sock.*start the server"):
        connect(str(tmp_path / "nowhere.sock"))
