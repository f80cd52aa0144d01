"""The check of a live lab: it passes where all is as declared, and names what somebody changed by hand.

Everything is broken at once, so that one run of the playbook has to find all of it.
"""

from __future__ import annotations

import datetime
import pathlib
import re

import pytest
from conftest import put
from peat import pki
from verified import PORT, Found, listener, verify


@pytest.fixture(scope="module")
def snapshot(server, sql, lab):
    """snapshot() -> everything that a run which changes nothing leaves as it is."""
    accounts = "mysql.global_priv" if lab.server["flavour"] == "mariadb" else "mysql.user"

    def take() -> tuple:
        tables = f"{accounts}, mysql.db, mysql.tables_priv, mysql.procs_priv, peat_server.managed_account"
        files = "find /etc /root /opt -xdev -type f -printf '%p %T@ %m\\n' | sort | md5sum"
        return (
            sql(f"CHECKSUM TABLE {tables}"),
            server.check_output(files),
            server.check_output("nft list tables; nft --stateless list table inet peat"),
        )

    return take


# A server that is as declared


@pytest.fixture(scope="module")
def healthy(snapshot) -> Found:
    before = snapshot()
    found = verify()
    assert snapshot() == before
    return found


def test_a_lab_that_is_as_declared_passes_and_nothing_changes(healthy):
    assert healthy.code == 0, healthy.table
    assert healthy.changed == []
    assert healthy.rows and all(row["ok"] for row in healthy.rows)
    assert "FAILED" not in healthy.table
    assert healthy.table.endswith(f"{len(healthy.rows)} checks, all ok\n")


def test_each_vantage_point_is_told_of_in_both_protocols(healthy, lab):
    for address in ("address", "address6"):
        inside, outside = lab.hosts["modern"][address], lab.hosts["stranger"][address]
        assert "4 people get in" in healthy.row("logins", f"modern, {inside}")["found"]
        assert "TLSv1.3" in healthy.row(f"TLS {lab.server['port']}", f"modern, {inside}")["found"]
        assert f"port {lab.server['port']} refuses" in healthy.row("reach", f"stranger, {outside}")["found"]
    assert len([row for row in healthy.rows if " from the controller, " in row["check"]]) == 2


def test_a_wrong_password_and_an_unknown_name_are_refused(healthy, lab):
    found = healthy.row("refusals", f"modern, {lab.hosts['modern']['address']}")["found"]
    assert "farrell with a wrong password (1045)" in found
    assert "a name that is not in the list (1045)" in found


# A server that somebody changed


def soon(folder: pathlib.Path, own: pathlib.Path) -> dict[str, bytes]:
    """A real certificate of the lab's authority for the same names, with few days left: {file: content}."""
    ca, key, secret = ((folder / f"ca.{name}").read_bytes() for name in ("crt", "key", "passphrase"))
    authority = pki.Pair(pki.certificates_of(ca, "ca.crt")[0], pki.key_of(key, "ca.key", secret.decode().strip()))
    names = pki.alternative_names(pki.certificates_of((own / "server.crt").read_bytes(), "server.crt")[0])
    now = datetime.datetime.now(datetime.timezone.utc)
    pair = pki.issue(pki.Request(pki.SERVER, "server", tuple(names)), authority, now, 9)
    return {"server.crt": pki.certificate_text(pair.certificate), "server.key": pki.key_text(pair.key)}


@pytest.fixture(scope="module")
def broken(healthy, site, server, sql, lab) -> Found:
    """What a run found after somebody's bad day. What site.yml does not repair is put right again."""
    mariadb = lab.server["flavour"] == "mariadb"
    campus = f"{lab.server['address'].rpartition('.')[0]}.64/255.255.255.192"
    site.to_restore = True
    sql("CREATE USER 'intruder'@'%' IDENTIFIED BY 'Correct-Horse-9'; GRANT SELECT ON modernhf.* TO 'intruder'@'%'")
    sql(f"GRANT SELECT ON `my1sandbox`.* TO 'guest'@'{campus}'")
    sql(f"ALTER USER 'nielsen'@'{campus}' IDENTIFIED BY 'Other-Horse-9'")
    sql("DELETE FROM modernhp.commit_row_lock")
    sql("INSERT INTO my1sandbox.object_state (zoid, tid, prev_tid, state_size, state) VALUES (1600000, 1, 0, 0, '')")
    folder = pathlib.Path(lab.server["secrets"]).parent / "tls"
    for name, content in soon(folder, folder / "server").items():
        (folder / "server" / name).write_bytes(content)
        put(server, content, f"/etc/mysql/tls/{name}")
    sql("FLUSH SSL" if mariadb else "ALTER INSTANCE RELOAD TLS")
    server.check_output("nft delete table inet peat && systemctl stop fail2ban")
    # The list says of somebody what the accounts do not.
    lists = lab.lists()
    next(person for person in lists["peat_people"] if person["name"] == "visitor")["tls"] = "required"
    with listener(server):
        found = verify(lists)
    sql("DROP USER 'intruder'@'%'; DELETE FROM my1sandbox.object_state WHERE zoid = 1600000")
    return found


def test_it_fails_and_what_is_in_order_stays_ok(broken):
    assert broken.code != 0
    assert broken.row("projects")["ok"] and broken.row("TLS versions")["ok"]
    failed = sum(not row["ok"] for row in broken.rows)
    assert broken.table.endswith(f"{failed} of {len(broken.rows)} checks FAILED\n")


def test_a_foreign_account_is_named(broken):
    assert broken.failed("accounts", "'intruder'@'%' is not in the list")


def test_rights_that_the_list_does_not_give_are_named_and_seen_at_the_vantage_point(broken, lab):
    assert broken.failed("accounts", "'guest'@")
    assert broken.failed("logins", "guest sees also my1sandbox", where=f"modern, {lab.hosts['modern']['address']}")


def test_a_changed_password_is_noticed(broken, lab):
    assert broken.failed("accounts", "'nielsen'@")
    assert broken.failed("logins", "nielsen is not let in", where=f"modern, {lab.hosts['modern']['address']}")


@pytest.mark.parametrize("address", ["address", "address6"])
def test_an_account_without_its_tls_rule_lets_in_who_does_not_encrypt(broken, lab, address):
    where = f"modern, {lab.hosts['modern'][address]}"
    assert broken.failed("refusals", "visitor without TLS gets in", where=where)


def test_what_else_listens_is_named_with_its_process(broken):
    assert broken.failed("listening", f"python3 listens on port {PORT} of 0.0.0.0")


def test_a_fail2ban_that_does_not_run_is_named(broken):
    assert broken.failed("failed logins", "fail2ban does not watch peat-mysql")


def test_a_missing_commit_lock_is_named(broken):
    assert broken.failed("commit lock", "modernhp has 0 rows in commit_row_lock")


def test_object_ids_that_would_come_twice_are_named(broken):
    assert broken.failed("next object id", "my1sandbox would give out ids from", "objects up to 1600000 exist")


@pytest.mark.parametrize("address", ["address", "address6"])
def test_a_missing_firewall_is_named_and_seen_from_outside(broken, lab, address):
    assert broken.failed("firewall", "inet peat")
    where = f"stranger, {lab.hosts['stranger'][address]}"
    assert broken.failed("reach", f"port {lab.server['port']} is open", where=where)


@pytest.mark.parametrize("address", ["address", "address6"])
def test_a_certificate_that_ends_soon_is_named_and_seen_where_clients_are(broken, lab, address):
    assert broken.failed("certificates", "the certificate of server", "expires on")
    assert broken.failed(f"TLS {lab.server['port']}", "8 days left", where=f"modern, {lab.hosts['modern'][address]}")


def test_no_password_is_shown(healthy, broken, lab):
    for person in lab.server["people"]:
        for found in (healthy, broken):
            assert lab.password(person["name"]) not in found.text


def test_a_server_that_does_not_run_is_no_pass(broken, server, lab):
    unit = "mariadb" if lab.server["flavour"] == "mariadb" else "mysql"
    server.check_output("systemctl stop %s", unit)
    try:
        found = verify()
    finally:
        server.check_output("systemctl start %s", unit)
    assert found.code != 0
    assert re.search(r"^server +host +FAILED  not verified: .*nothing answers on", found.table, re.MULTILINE)
    # What is seen from elsewhere is told all the same.
    assert found.failed("logins", "is not let in", where=f"modern, {lab.hosts['modern']['address']}")


def test_a_run_of_the_site_repairs_it(broken, site):
    site.restore()
    found = verify()
    assert found.code == 0, found.table
