"""A live Debian 12 server becomes a Debian 13 server: data, accounts and the announced version come along."""

from __future__ import annotations

import pytest
from conftest import confined

RECORDS = {"prefix": "before", "records": 50}
APT = (
    "DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
)


def accounts(sql) -> list[list[str]]:
    return sql("SELECT user, host, plugin, authentication_string, ssl_type FROM mysql.user ORDER BY 1, 2")


def process(server) -> str:
    return server.check_output("systemctl show --property=MainPID --value mariadb.service")


@pytest.fixture(scope="module")
def upgraded(server, sql, run_client) -> dict:
    """What was true before; the server has been upgraded since."""
    for program, client, project in (("peat2", "peat2", "hewlsample"), ("relstorage4", "modern", "modernhp")):
        answer = run_client(client, program, "add", "farrell", project, **RECORDS)
        assert answer["ok"], answer
    before = {"version": sql("SELECT version()")[0][0], "accounts": accounts(sql), "process": process(server)}
    assert before["version"].startswith("5.5.5-10.11."), before["version"]

    server.check_output("find /etc/apt -name '*.list' -exec sed -i s/bookworm/trixie/g {} +")
    server.check_output("apt-get -q update")
    server.check_output(f"{APT} full-upgrade")
    assert server.check_output(". /etc/os-release; echo $VERSION_CODENAME") == "trixie"
    return before


def test_the_new_server_runs_and_announces_its_own_version(upgraded, sql):
    assert sql("SELECT version()")[0][0].startswith("5.5.5-11.8.")


def test_the_new_server_is_still_confined(upgraded, server):
    """The upgrade itself started it, with the new package's unit."""
    assert process(server) not in ("0", upgraded["process"])
    assert confined(server, "mariadb.service")


def test_system_tables_are_upgraded(upgraded, server, sql):
    real = sql("SELECT version()")[0][0].removeprefix("5.5.5-").partition("-")[0]
    assert server.file("/var/lib/mysql/mariadb_upgrade_info").content_string.startswith(real)
    check = server.check_output("mariadb-check --all-databases --check-upgrade --skip-version-check --silent || true")
    assert check.strip() == ""


def test_accounts_are_what_they_were(upgraded, sql):
    assert [account for account in accounts(sql) if account in upgraded["accounts"]] == upgraded["accounts"]


@pytest.mark.parametrize(
    ("client", "program", "project"), [("peat2", "peat2", "hewlsample"), ("modern", "relstorage4", "modernhp")]
)
def test_clients_read_what_they_stored_and_go_on(upgraded, run_client, client, program, project):
    answer = run_client(client, program, "read", "nielsen", project, prefix="before")
    assert answer["ok"], answer
    assert len(answer["names" if program == "peat2" else "numbers"]) == RECORDS["records"]
    assert answer["wrong"] == []
    answer = run_client(client, program, "add", "nielsen", project, prefix=f"after-{program}", records=5)
    assert answer["ok"], answer


def test_site_yml_finds_what_it_wants(upgraded, site):
    run = site()
    assert run.ok, run.failure
    again = site()
    assert again.ok, again.failure
    assert again.changed == []
