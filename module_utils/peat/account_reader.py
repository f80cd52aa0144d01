"""Reading the accounts of a server: a few queries over whole tables, whatever the number of accounts.

The grant tables are read themselves where they can be: information_schema makes a row for each
privilege, they have one for each grant, and a lab of a thousand projects has tens of thousands.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable

from .account_state import REGISTRY, Account, AccountsError, Login, Rights, Scope, State, only_certificate
from .sql import literal, quote_name

Query = Callable[[str], list[tuple]]


def read(query: Query, definers: bool = False) -> State:
    """Return the state of a server with a constant number of queries.

    `query` runs one and returns its rows. `definers` reads those too, for which the server opens
    every view. Raise AccountsError if the server gives GRANT another meaning than the tested ones do.
    """
    tables = {(schema.lower(), name) for schema, name in query(_TABLES)}
    flavour = "mariadb" if ("mysql", "global_priv") in tables else "mysql"
    if flavour == "mysql":
        _check_meaning(*query("SELECT @@partial_revokes, @@mandatory_roles")[0])
    registry = frozenset(name for schema, name in tables if schema == REGISTRY)
    query("SET SESSION group_concat_max_len = 1073741824")  # which on MariaDB limits what _rows reads

    def remembered(table: str, columns: str) -> list[list]:
        return _rows(query, columns, f"{REGISTRY}.{table}") if table in registry else []

    columns = [name for (name,) in query(_COLUMNS)]
    return State(
        flavour,
        dict(_ACCOUNTS_OF[flavour](row) for row in _rows(query, *_ACCOUNTS[flavour])),
        _rights(query, flavour, columns),
        registry,
        frozenset(Account(*row) for row in remembered("managed_account", "user, host")),
        frozenset(user for (user,) in remembered("unsettled_user", "user")),
        dict(remembered("password_overlap", "user, CAST(since AS CHAR)")),
        tuple(sorted(name for schema, name in tables if schema == "test" and name)) if ("test", "") in tables else None,
        Account(*query("SELECT CURRENT_USER()")[0][0].rsplit("@", 1)),
        frozenset(map(_privilege_of, columns)) - {"GRANT OPTION"},
        frozenset(Account(*definer.rsplit("@", 1)) for (definer,) in query(_DEFINERS)) if definers else frozenset(),
        frozenset(map(tuple, remembered("verified_password", "user, digest"))),
    )


def _check_meaning(partial_revokes: int, mandatory_roles: str) -> None:
    """Raise AccountsError where MySQL is told that accounts have less or more than their own rights."""
    if partial_revokes:
        raise AccountsError(
            "the server has partial_revokes ON, wanted OFF: with it, a grant on one database whose name has"
            " _ or % never matches; remove partial_revokes from the server's options"
        )
    if mandatory_roles:
        raise AccountsError(
            f"the server has mandatory_roles {mandatory_roles!r}, wanted none: everybody has the rights of these roles,"
            " whatever the list says; remove mandatory_roles from the server's options, or SET PERSIST it to ''"
        )


def _rows(query: Query, columns: str, source: str) -> list[list]:
    """Return rows as one value: PyMySQL takes most of the time of a large read to tell rows apart."""
    ((text,),) = query(f"SELECT JSON_ARRAYAGG(JSON_ARRAY({columns})) FROM {source}")
    return json.loads(text) if text else []


def unlisted_databases(query: Query, projects: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return the tables of every database that is neither a project nor the server's own."""
    known = {name.lower() for name in projects} | _SYSTEM_DATABASES
    found = {
        name: set()
        for (name,) in query("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA")
        if name.lower() not in known
    }
    if found:
        listed = ", ".join(map(literal, found))
        for schema, name in query(
            f"SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA IN ({listed})"
        ):
            found.setdefault(schema, set()).add(name)
    return {name: frozenset(tables) for name, tables in found.items()}


_SYSTEM_DATABASES = frozenset(("information_schema", "mysql", "performance_schema", "sys", "test", REGISTRY))

# What there is to know about databases other than the projects': one row (name, '') per database.
_TABLES = (
    "SELECT SCHEMA_NAME, '' FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'test'"
    " UNION ALL SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES"
    f" WHERE TABLE_SCHEMA IN ('test', '{REGISTRY}') OR (TABLE_SCHEMA = 'mysql' AND TABLE_NAME = 'global_priv')"
    " UNION ALL SELECT ROUTINE_SCHEMA, ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = 'test'"
    " UNION ALL SELECT EVENT_SCHEMA, EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA = 'test'"
)
_COLUMNS = (
    "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = 'mysql' AND TABLE_NAME = 'db'"
    " AND COLUMN_NAME LIKE '%\\_priv' ORDER BY ORDINAL_POSITION"
)
_DEFINERS = " UNION ".join(
    f"SELECT DEFINER FROM information_schema.{kind} WHERE DEFINER <> ''"
    for kind in ("VIEWS", "ROUTINES", "TRIGGERS", "EVENTS")
)
_ACCOUNTS = {
    "mariadb": ("User, Host, Priv", "mysql.global_priv"),
    "mysql": (
        "User, Host, plugin, authentication_string, ssl_type, account_locked, password_expired, password_lifetime,"
        " User_attributes ->> '$.additional_password', max_user_connections,"
        " max_questions, max_updates, max_connections, User_attributes ->> '$.Password_locking.failed_login_attempts',"
        " CONVERT(x509_subject USING utf8mb4), CONVERT(x509_issuer USING utf8mb4), CONVERT(ssl_cipher USING utf8mb4)",
        "mysql.user",
    ),
}
# Limits of MariaDB other than on connections at once.
_MARIADB_LIMITS = ("max_questions", "max_updates", "max_connections", "max_statement_time")
_MARIADB_TLS = {0: "", 1: "ANY", 2: "X509", 3: "SPECIFIED"}


def _mariadb_account(row: list) -> tuple[Account, Login]:
    user, host, data = row  # the column is JSON itself
    return Account(user, host), Login(
        data.get("plugin", ""),
        data.get("authentication_string", ""),
        _demand(
            _MARIADB_TLS.get(data.get("ssl_type", 0), "SPECIFIED"),
            *(data.get(name, "") for name in ("x509_subject", "x509_issuer", "ssl_cipher")),
        ),
        bool(data.get("account_locked", False)),
        data.get("password_lifetime", -1) != 0,
        data.get("password_last_changed", 1) == 0,
        any(data.get("auth_or", [])),  # an empty entry stands for the plugin above; alone it may stay for good
        bool(data.get("is_role", False)),
        int(data.get("max_user_connections", 0)),
        any(data.get(name) for name in _MARIADB_LIMITS),
    )


def _mysql_account(row: list) -> tuple[Account, Login]:
    user, host, plugin, stored, tls, locked, expired, lifetime, spare, connections, *more = row
    limits, certificate = more[:4], more[4:]
    # CREATE ROLE makes an account that is locked and expired and has no password.
    role = locked == "Y" and expired == "Y" and not stored
    return Account(user, host), Login(
        plugin or "",
        stored or "",
        _demand(tls, *certificate),
        locked == "Y",
        lifetime != 0,
        expired == "Y",
        spare is not None,
        role,
        int(connections),
        any(int(limit or 0) for limit in limits),
    )


def _demand(kind: str, subject: str = "", issuer: str = "", cipher: str = "") -> str:
    """Return what an account demands of a connection, as Login keeps it."""
    return only_certificate(subject, issuer) if kind == "SPECIFIED" and subject and issuer and not cipher else kind


_ACCOUNTS_OF = {"mariadb": _mariadb_account, "mysql": _mysql_account}


# MySQL has its newer global privileges in a table of their own; here both are one list.
_GLOBAL = (
    "SELECT GRANTEE, PRIVILEGE_TYPE, IS_GRANTABLE FROM information_schema.USER_PRIVILEGES"
    " WHERE PRIVILEGE_TYPE <> 'USAGE' OR IS_GRANTABLE = 'YES'"
)
_TABLE_GRANTS = ("User, Host, Db, Table_name, Table_priv", "mysql.tables_priv WHERE Table_priv <> ''")
_COLUMN_GRANTS = ("User, Host, Db, Table_name, Column_name, Column_priv", "mysql.columns_priv")
_ROUTINES = ("User, Host, Routine_type, Db, Routine_name, Proc_priv", "mysql.procs_priv")
_PROXIES = ("User, Host, Proxied_user, Proxied_host", "mysql.proxies_priv")
_ROLES = {
    "mariadb": ("User, Host, Role, ''", "mysql.roles_mapping"),
    "mysql": ("TO_USER, TO_HOST, FROM_USER, FROM_HOST", "mysql.role_edges"),
}
# How the grant tables call a privilege that GRANT calls otherwise.
_NAMES = {
    "CREATE TMP TABLE": "CREATE TEMPORARY TABLES",
    "GRANT": "GRANT OPTION",
    "DELETE VERSIONING ROWS": "DELETE HISTORY",
}


def _privilege_of(column: str) -> str:
    """Return the privilege that a column such as ``Create_tmp_table_priv`` is about."""
    name = column[: -len("_priv")].replace("_", " ").upper()
    return _NAMES.get(name, name)


@functools.lru_cache(maxsize=10_000)
def _of_set(text: str) -> frozenset[str]:
    """Return the privileges that a column of type SET lists."""
    return frozenset(_NAMES.get(name, name) for name in text.upper().split(",") if name)


def _rights(query: Query, flavour: str, columns: list[str]) -> Rights:
    rights: Rights = {}

    def add(account: Account, scope: Scope, privileges: frozenset[str]) -> None:
        if privileges:
            granted = rights.setdefault(account, {})
            granted[scope] = granted[scope] | privileges if scope in granted else privileges

    privileges = [_privilege_of(column) for column in columns]

    @functools.lru_cache(maxsize=10_000)
    def of_letters(letters: str) -> frozenset[str]:
        return frozenset(name for name, letter in zip(privileges, letters) if letter == "Y")

    for grantee, privilege, grantable in query(_GLOBAL):
        user, host = grantee[1:-1].rsplit("'@'", 1)
        options = ("GRANT OPTION",) if grantable == "YES" else ()
        add(Account(user, host), Scope("global"), frozenset((privilege, *options)) - {"USAGE"})
    letters = f"CONCAT({', '.join(map(quote_name, columns))})"
    for user, host, database, text in _rows(query, f"User, Host, Db, {letters}", "mysql.db"):
        add(Account(user, host), Scope("database", database), of_letters(text))
    for user, host, database, name, text in _rows(query, *_TABLE_GRANTS):
        add(Account(user, host), Scope("table", database, name), _of_set(text))
    for user, host, database, name, column, text in _rows(query, *_COLUMN_GRANTS):
        add(Account(user, host), Scope("column", database, name, column), _of_set(text))
    for user, host, kind, database, name, text in _rows(query, *_ROUTINES):
        add(Account(user, host), Scope(kind, database, name), _of_set(text))
    for kind, source in (("proxy", _PROXIES), ("role", _ROLES[flavour])):
        for user, host, name, detail in _rows(query, *source):
            add(Account(user, host), Scope(kind, "", name, detail), frozenset((kind.upper(),)))
    return rights
