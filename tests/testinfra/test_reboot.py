"""After the host has been rebooted, service, firewall and clients work as before."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import REPOSITORY, disconnect, inventory_options


@pytest.fixture(scope="module")
def rebooted(server, run_client) -> dict:
    """What PEAT had stored before; the host is up again."""
    added = run_client("peat2", "peat2", "add", "farrell", "hewlsample", prefix="reboot", records=5)
    assert added["ok"], added
    booted = "cut -d' ' -f22 /proc/1/stat"
    before = server.check_output(booted)
    disconnect(server)
    subprocess.run(
        [sys.executable, REPOSITORY / "molecule/shared/hosts.py", "restart", *inventory_options(), "server"],
        check=True,
    )
    assert server.check_output(booted) != before, "the host was not rebooted"
    return added


def test_no_unit_has_failed(server, rebooted):
    assert server.check_output("systemctl list-units --failed --plain --no-legend") == ""


def test_the_server_listens(server, rebooted, lab):
    assert server.socket(f"tcp://{lab.server['address']}:{lab.server['port']}").is_listening


def test_peat_reads_and_saves(run_client, rebooted):
    read = run_client("peat2", "peat2", "read", "guest", "hewlsample", prefix="reboot")
    assert len(read["names"]) == 5
    assert read["wrong"] == []
    assert run_client("peat2", "peat2", "add", "farrell", "hewlsample", prefix="reboot", records=5)["ok"]


def test_failed_logins_can_be_told_from_forged_ones(server, rebooted, lab):
    """To whom the server has spoken, as in the test before, is known for a minute (test_bans.py)."""
    assert lab.hosts["peat2"]["address"] in server.check_output("nft list set inet peat-bans answered4")


@pytest.mark.parametrize("driver", ["PyMySQL", "MySQLdb"])
def test_current_clients_read_and_commit(run_client, rebooted, unused, driver):
    assert run_client("modern", "relstorage4", "add", "farrell", "modernhp", prefix=unused, driver=driver)["ok"]
    assert run_client("modern", "relstorage4", "read", "guest", "modernhp", prefix=unused, driver=driver)["wrong"] == []


@pytest.mark.parametrize("address", ["address", "address6"])
def test_the_firewall_refuses_undeclared_addresses(run_client, rebooted, lab, address):
    answer = run_client("stranger", "relstorage4", "open", "farrell", "modernhp", server=lab.server[address])
    assert answer["error"]["number"] == 2003


def test_the_firewall_is_up_before_the_server(server, rebooted):
    def started(unit: str) -> int:
        return int(server.check_output("systemctl show --property=ActiveEnterTimestampMonotonic --value %s", unit))

    service = "mariadb" if server.exists("mariadbd") else "mysql"
    assert 0 < started("peat-firewall") <= started(service)
