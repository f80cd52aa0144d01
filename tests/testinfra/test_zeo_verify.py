"""The check of a live lab at ZEO servers: it passes where all is as declared, and names what is not.

All hosts are broken at once, so that one run of the playbook has to find all of it.
"""

from __future__ import annotations

import contextlib
import json

import pytest
from conftest import zeo_names
from verified import PORT, Found, listener, verify

TLS = {"zeo_tls": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """run(variables) -> what playbooks/verify.yml found, from the clients' hosts as well."""
    inventory = tmp_path_factory.mktemp("vantage") / "vantage.json"
    inventory.write_text(json.dumps({"vantage": {"hosts": {"modern": None, "stranger": None}}}))
    return lambda variables: verify(variables, f"--inventory={inventory}")


@pytest.fixture(scope="module")
def unencrypted(run) -> Found:
    """What is found of the servers as the scenario's inventory has them."""
    return run({})


@pytest.fixture(scope="module")
def healthy(unencrypted, run, site, hosts) -> Found:
    """What is found of servers that ask for certificates, and have backups."""
    done = site(TLS)
    assert done.ok, done.failure
    for name in zeo_names():
        hosts[name].check_output("zeoctl backup")
    return run(TLS)


@pytest.fixture(scope="module")
def broken(healthy, run, hosts) -> Found:
    with contextlib.ExitStack() as stack:
        for name in zeo_names():
            stack.enter_context(listener(hosts[name]))
            hosts[name].check_output("nft delete table inet peat")
            hosts[name].check_output("touch --date='3 days ago' /var/backups/peat-server/hewlsample/*/ended")
            hosts[name].check_output("sed -i '/<ssl>/,/<.ssl>/d' /etc/zeo/zeo.conf && zeoctl restart")
        return run(TLS)


@pytest.fixture(scope="module")
def stopped(broken, run, hosts) -> Found:
    """What is found where no server runs."""
    for name in zeo_names():
        hosts[name].check_output("zeoctl stop")
    return run(TLS)


@pytest.mark.parametrize("state", ["unencrypted", "healthy"])
def test_servers_that_are_as_declared_pass_and_nothing_changes(request, state, zeo_name):
    found = request.getfixturevalue(state)
    assert found.code == 0, found.table
    assert found.changed == []
    assert found.row("service", server=zeo_name)["found"] == "it answers, and zeoctl status says so"


@pytest.mark.parametrize("state", ["unencrypted", "healthy"])
@pytest.mark.parametrize("address", ["address", "address6"])
def test_a_client_inside_reaches_it_and_nobody_outside(request, state, lab, zeo_name, address):
    found = request.getfixturevalue(state)
    inside, outside = (f"{name}, {lab.hosts[name][address]}" for name in ("modern", "stranger"))
    assert "answers: ZEO protocol" in found.row("reach", inside, zeo_name)["found"]
    assert "refuses" in found.row("reach", outside, zeo_name)["found"]


@pytest.mark.parametrize("address", ["address", "address6"])
def test_nobody_gets_in_without_a_certificate(healthy, lab, zeo_name, address):
    where = f"modern, {lab.hosts['modern'][address]}"
    assert healthy.row("refusals", where, zeo_name)["found"] == "refused: who has no certificate, who does not encrypt"
    assert "days left" in healthy.row(f"TLS {lab.hosts[zeo_name]['port']}", where, zeo_name)["found"]


def test_a_new_backup_is_no_finding(healthy, zeo_name):
    assert "is 0 hours old" in healthy.row("backups", server=zeo_name)["found"]


def test_a_server_that_asks_for_no_certificate_any_more_is_named(broken, lab, zeo_name):
    assert broken.failed("server", "restarted", server=zeo_name)
    where = f"modern, {lab.hosts['modern']['address']}"
    assert broken.failed("refusals", "somebody without TLS gets in", where=where, server=zeo_name)


def test_what_else_listens_is_named(broken, zeo_name):
    assert broken.code != 0
    assert broken.failed("listening", f"python3 listens on port {PORT}", server=zeo_name)


def test_an_old_backup_is_named(broken, zeo_name):
    assert broken.failed("backups", "the last of hewlsample is 3 days old", server=zeo_name)


@pytest.mark.parametrize("address", ["address", "address6"])
def test_a_missing_firewall_is_named_and_seen_from_outside(broken, lab, zeo_name, address):
    assert broken.failed("firewall", "inet peat", server=zeo_name)
    where = f"stranger, {lab.hosts['stranger'][address]}"
    assert broken.failed("reach", "is open, though nobody", where=where, server=zeo_name)


def test_a_server_that_does_not_run_is_no_pass(stopped, lab, zeo_name):
    assert stopped.code != 0
    assert stopped.failed("service", "it does not answer", server=zeo_name)
    assert stopped.failed(
        "reach", "does not let in", where=f"modern, {lab.hosts['modern']['address']}", server=zeo_name
    )
