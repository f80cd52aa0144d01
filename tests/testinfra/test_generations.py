"""A program of today on a project of PEAT 2.3: it gets an error, and the project stays as it is.

With more rights RelStorage 3 and 4 would convert the tables when they open them, and every PEAT would then fail.
"""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def state_of(sql):
    """Everything of a database: definitions of tables and procedures, and a checksum of every table's rows."""

    def state(database: str) -> list[list[str]]:
        tables = [f"`{database}`.`{row[0]}`" for row in sql(f"SHOW TABLES FROM `{database}`")]
        routines = (
            f"SELECT routine_name, last_altered FROM information_schema.routines WHERE routine_schema='{database}'"
        )
        definitions = [f"SHOW CREATE TABLE {table}" for table in tables]
        return sql("; ".join([*definitions, f"CHECKSUM TABLE {', '.join(tables)}", routines]))

    return state


@pytest.mark.parametrize(
    ("person", "driver", "create_schema"),
    [
        ("farrell", "PyMySQL", True),
        ("farrell", "PyMySQL", False),
        ("farrell", "MySQLdb", True),
        ("guest", "PyMySQL", True),
    ],
)
def test_a_current_client_is_refused_and_changes_nothing(run_client, state_of, unused, person, driver, create_schema):
    assert run_client("peat2", "peat2", "add", "farrell", "hewlsample", prefix=unused, records=3)["ok"]
    before = state_of("hewlsample")
    answer = run_client(
        "modern", "relstorage4", "add", person, "hewlsample", driver=driver, create_schema=create_schema
    )
    assert not answer["ok"]
    assert answer["step"] == "open"
    if create_schema:
        # ALTER, CREATE or the like is denied: RelStorage's own defaults
        assert answer["error"]["number"] in (1044, 1142)
    else:
        assert "should be InnoDB" in answer["error"]["text"]
    assert state_of("hewlsample") == before

    read = run_client("peat2", "peat2", "read", "guest", "hewlsample", prefix=unused)
    assert len(read["names"]) == 3
    assert read["wrong"] == []
    assert run_client("peat2", "peat2", "add", "farrell", "hewlsample", prefix=unused, first=4)["ok"]
