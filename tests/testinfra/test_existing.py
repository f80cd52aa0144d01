"""site.yml on a machine where somebody installed MariaDB by hand years ago, with data in it.

Nothing is lost, PEAT works on, and what the list does not know is reported instead of removed. The project's data was
written by PEAT 2.3 on RelStorage 1.4 and brought to RelStorage 1.5 by hand.
"""

from __future__ import annotations

import json

import pytest
from conftest import REPOSITORY, put

FIXTURE = REPOSITORY / "tests/fixtures"
NAME = "relstorage-1.4-history-preserving"

BY_HAND = """
[mysqld]
bind-address = 0.0.0.0
max_connect_errors = 4242
"""

RELSTORAGE_15 = """
ALTER TABLE object_state ADD COLUMN state_size BIGINT AFTER md5;
UPDATE object_state SET state_size = COALESCE(LENGTH(state), 0);
ALTER TABLE object_state MODIFY state_size BIGINT NOT NULL AFTER md5;
CREATE TABLE blob_chunk (
    zoid BIGINT NOT NULL, tid BIGINT NOT NULL, chunk_num BIGINT NOT NULL, PRIMARY KEY (zoid, tid, chunk_num),
    chunk LONGBLOB NOT NULL, KEY blob_chunk_lookup (zoid, tid),
    CONSTRAINT blob_chunk_fk FOREIGN KEY (zoid, tid) REFERENCES object_state (zoid, tid) ON DELETE CASCADE
) ENGINE = InnoDB;
"""

ACCOUNTS = """
GRANT ALL PRIVILEGES ON hewlsample.* TO farrell@'%' IDENTIFIED BY 'old-password';
GRANT ALL PRIVILEGES ON `my_sandbox`.* TO nielsen@'10.9.8.7' IDENTIFIED BY 'old-password';
GRANT ALL PRIVILEGES ON *.* TO root@'%' IDENTIFIED BY 'old-password';
CREATE USER ''@'localhost';
CREATE DATABASE test;
GRANT ALL PRIVILEGES ON test.* TO ''@'localhost';
CREATE DATABASE accounting;
CREATE TABLE accounting.bills (id INT PRIMARY KEY, amount INT) ENGINE = InnoDB;
INSERT INTO accounting.bills VALUES (1, 100), (2, 250);
GRANT SELECT, INSERT ON accounting.* TO bookkeeper@'localhost' IDENTIFIED BY 'books';
"""


@pytest.fixture(scope="module")
def by_hand(server, run_client) -> dict:
    """The server as it was found, and what PEAT reads from it."""
    server.check_output("apt-get update --quiet")
    server.check_output("DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes mariadb-server")
    put(server, BY_HAND.encode(), "/etc/mysql/mariadb.conf.d/60-by-hand.cnf")
    server.check_output("systemctl restart mariadb")
    server.check_output("mariadb --execute='CREATE DATABASE hewlsample'")
    put(server, (FIXTURE / f"{NAME}.sql.gz").read_bytes(), "/root/hewlsample.sql.gz")
    server.check_output("zcat /root/hewlsample.sql.gz | mariadb hewlsample")
    put(server, (RELSTORAGE_15 + ACCOUNTS).encode(), "/root/by-hand.sql")
    server.check_output("mariadb hewlsample < /root/by-hand.sql")
    found = run_client("peat2", "peat2", "dump", "farrell", "hewlsample", port=3306, password="old-password")
    assert found["ok"], found
    written = json.loads((FIXTURE / f"{NAME}.json").read_text())
    assert {"records": found["records"], "log": found["log"]} == written
    return found


@pytest.fixture(scope="module")
def taken_over(by_hand, site):
    run = site()
    assert run.ok, run.failure
    return run


def test_a_second_run_changes_nothing(taken_over, site):
    run = site()
    assert run.ok, run.failure
    assert run.changed == []


def test_peat_reads_every_record_of_before(taken_over, by_hand, run_client):
    assert run_client("peat2", "peat2", "dump", "guest", "hewlsample") == by_hand


def test_peat_works_on(taken_over, run_client, unused):
    assert run_client("peat2", "peat2", "add", "farrell", "hewlsample", prefix=unused, records=20, commits=3)["ok"]
    assert run_client("peat2", "peat2", "undo", "farrell", "hewlsample", prefix=unused)["ok"]
    read = run_client("peat2", "peat2", "read", "nielsen", "hewlsample", prefix=unused)
    assert len(read["names"]) == 20
    assert read["wrong"] == []


def test_the_server_moved_to_its_port(taken_over, server, lab):
    assert server.check_output("ss -Hltn sport = :3306") == ""
    assert server.check_output("ss -Hltn sport = :%s", str(lab.server["port"])) != ""


def test_options_set_by_hand_stay(taken_over, sql):
    assert sql("SELECT @@max_connect_errors") == [["4242"]]


def test_data_of_others_stays(taken_over, server):
    done = server.run("mariadb --user=bookkeeper --password=books -BNe 'SELECT SUM(amount) FROM accounting.bills'")
    assert done.stdout == "350\n", done.stderr


@pytest.fixture(scope="module")
def findings(taken_over) -> list[str]:
    """What the run reported of accounts, as it also warned."""
    (accounts,) = taken_over.output_of("Accounts | Everybody")
    return accounts["findings"]


@pytest.mark.parametrize(
    ("user", "host"), [("bookkeeper", "localhost"), ("farrell", "%"), ("nielsen", "10.9.8.7"), ("root", "%")]
)
def test_foreign_accounts_are_reported_and_stay(findings, sql, user, host):
    assert sql(f"SELECT COUNT(*) FROM mysql.user WHERE user = '{user}' AND host = '{host}'") == [["1"]]
    (finding,) = [text for text in findings if f"'{user}'@'{host}'" in text]
    assert f"DROP USER '{user}'@'{host}'" in finding


def test_a_grant_that_opens_more_than_it_names_is_reported(findings):
    (finding,) = [text for text in findings if "'nielsen'@'10.9.8.7'" in text]
    assert "also on my_sandbox, my1sandbox" in finding


def test_anonymous_accounts_and_the_empty_test_database_are_gone(taken_over, sql):
    assert sql("SELECT COUNT(*) FROM mysql.user WHERE user = ''") == [["0"]]
    assert sql("SELECT COUNT(*) FROM mysql.db WHERE user = ''") == [["0"]]
    assert sql("SHOW DATABASES LIKE 'test'") == []


def test_accounts_made_by_hand_open_no_port(taken_over, run_client):
    """farrell@'%' is still there; the firewall keeps its '%' inside the lab's networks."""
    answer = run_client("stranger", "relstorage4", "open", "farrell", "hewlsample", password="old-password")
    assert answer["error"]["number"] == 2003
