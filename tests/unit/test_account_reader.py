"""Reading the accounts of a server: what the rows mean, and how many queries that takes."""

from __future__ import annotations

import json

import pytest
from peat.account_reader import read
from peat.account_state import Account, AccountsError

SERVERS = ("mariadb", "mysql")


class Server:
    """Answers the reader's queries like a server with this many accounts; `asked` has the queries."""

    def __init__(self, flavour, accounts=1, data=None, limits=(0, 0, 0, None), meaning=(0, "")):
        self.flavour, self.accounts, self.data, self.limits = flavour, accounts, data or {}, limits
        self.meaning = meaning
        self.asked = []

    def __call__(self, text):
        self.asked.append(text)
        if "partial_revokes" in text:
            return [self.meaning]
        if "JSON_ARRAYAGG" in text:
            return [(json.dumps(self.rows(text)),)]
        if "information_schema.COLUMNS" in text:
            return [("Select_priv",), ("Insert_priv",)]
        if "information_schema.TABLES" in text:
            return [("mysql", "global_priv")] if self.flavour == "mariadb" else []
        if "USER_PRIVILEGES" in text:
            return [(f"'u{number}'@'%'", "USAGE", "NO") for number in range(self.accounts)]
        return [("root@localhost",)] if "CURRENT_USER" in text else []

    def rows(self, text):
        names = [f"u{number}" for number in range(self.accounts)]
        if text.endswith("mysql.global_priv"):
            return [[name, "%", self.data] for name in names]
        if text.endswith("mysql.user"):
            values = ["plugin", "stored", "", "N", "N", 0, None, 0, *self.limits, "", "", ""]
            return [[name, "%", *values] for name in names]
        return [[name, "%", name, "YN"] for name in names] if text.endswith("mysql.db") else []


@pytest.mark.parametrize("flavour", SERVERS)
def test_the_number_of_queries_is_constant(flavour):
    few, many = Server(flavour, 1), Server(flavour, 1000)
    assert (len(read(few, True).accounts), len(read(many, True).accounts)) == (1, 1000)
    assert len(many.asked) == len(few.asked) < 20


@pytest.mark.parametrize(
    ("server", "throttled"),
    [
        (Server("mariadb"), False),
        (Server("mariadb", data={"max_questions": 0, "max_user_connections": 5}), False),
        *((Server("mariadb", data={f"max_{name}": 1}), True) for name in ("questions", "updates", "connections")),
        (Server("mariadb", data={"max_statement_time": 0.5}), True),
        (Server("mysql"), False),
        (Server("mysql", limits=(0, 0, 0, "0")), False),
        (Server("mysql", limits=(0, 7, 0, None)), True),
        (Server("mysql", limits=(0, 0, 0, "3")), True),
    ],
)
def test_limits_that_the_list_does_not_know_are_seen(server, throttled):
    assert read(server).accounts[Account("u0", "%")].throttled is throttled


@pytest.mark.parametrize(
    ("meaning", "message"), [((1, ""), "partial_revokes ON"), ((0, "`clerks`@`%`"), "mandatory_roles '`clerks`@`%`'")]
)
def test_mysql_where_accounts_have_other_rights_than_their_own_is_refused(meaning, message):
    with pytest.raises(AccountsError, match=message.split()[0]) as refused:
        read(Server("mysql", meaning=meaning))
    assert message in str(refused.value)
