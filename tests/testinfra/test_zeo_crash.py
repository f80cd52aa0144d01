"""ZEO's server is killed, stopped and rebooted while a client saves: what was acknowledged is there afterwards.

And at every step `zeoctl status` says what is: 0 while clients can connect, anything else otherwise. It is asked
until it says what is expected, and the port is looked at then, by a connection of our own.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest
from conftest import REPOSITORY, Clients, Loop, disconnect, inventory_options, wait_until, zeo_inits

ZEO_HOSTS = zeo_inits


@dataclass
class Zeo:
    """A ZEO server and a client of its generation."""

    name: str
    values: dict
    host: object
    run_client: Clients
    program: str
    saved: dict[str, set] = field(default_factory=dict)

    @property
    def systemd(self) -> bool:
        return self.host.file("/run/systemd/system").exists

    def client(self) -> tuple[str, str]:
        return ("peat2" if self.program == "peat2" else "modern"), self.program

    def options(self) -> dict:
        options = {"server": self.values["address"], "port": self.values["port"], "backend": "zeo"}
        return options if self.program == "peat2" else {**options, "password": "none"}

    def saving(self) -> Loop:
        """Start a client that saves; return when it has begun."""
        prefix = f"crash{time.time_ns() // 1_000_000:x}-"
        loop = self.run_client.loop(
            *self.client(), "farrell", "hewlsample", prefix=prefix, seconds=20, **self.options()
        )
        loop.wait_for(20)
        loop.prefix = prefix
        return loop

    def check(self, loop: Loop) -> None:
        """End a client; everything it was told is saved must be there."""
        loop.stop()
        acknowledged = set(loop.saved())
        assert len(acknowledged) >= 20
        read = self.run_client(
            *self.client()[:2], "read", "farrell", "hewlsample", prefix=loop.prefix, **self.options()
        )
        assert acknowledged - set(read.get("names") or read["numbers"]) == set()
        assert read["wrong"] == []

    def status(self) -> int:
        return self.host.run("zeoctl status").rc

    def reachable(self) -> bool:
        """Whether a client can connect, asked on the server itself, where no firewall is in between."""
        return self.host.run("bash -c %s", f"exec 3<>/dev/tcp/127.0.0.1/{self.values['port']}").rc == 0

    def expect(self, running: bool, seconds: float = 30) -> None:
        """Wait until status says so; then it must be so."""
        wait_until(lambda: (self.status() == 0) is running, f"zeoctl status: running is {running}", seconds)
        assert self.reachable() is running

    def server_process(self) -> str:
        return self.host.check_output("cat /run/zeo/zeo.pid")

    def parent_process(self) -> str:
        """The server's manager, zdaemon; with systemd, and of an orphan, process 1."""
        return self.host.check_output("ps -o ppid= -p %s", self.server_process()).strip()


@pytest.fixture(scope="module")
def zeo(lab, hosts, run_client, zeo_name) -> Zeo:
    program = "peat2" if "peat2" in lab.hosts else "relstorage4"
    return Zeo(zeo_name, lab.hosts[zeo_name], hosts[zeo_name], run_client, program)


def test_a_killed_server_comes_back(zeo):
    zeo.expect(True)
    loop, killed = zeo.saving(), zeo.server_process()
    zeo.host.check_output("kill -9 %s", killed)
    # Not before the init system or the manager has started another: nothing serves, and nothing claims to.
    assert zeo.status() != 0 or zeo.server_process() != killed
    zeo.expect(True)
    assert zeo.server_process() != killed
    zeo.check(loop)


def test_stopped_and_started_by_the_administrator(zeo):
    loop = zeo.saving()
    zeo.host.check_output("zeoctl stop")
    zeo.expect(False)
    assert zeo.status() == 3
    zeo.host.check_output("zeoctl start")
    assert zeo.status() == 0
    zeo.expect(True)
    zeo.check(loop)


def test_a_port_that_somebody_else_holds(zeo):
    """The start fails, says so, and leaves nothing that claims to run."""
    zeo.host.check_output("zeoctl stop")
    command = f"setsid python3 -m http.server {zeo.values['port']} >/dev/null 2>&1 </dev/null & echo $! >/run/intruder"
    zeo.host.check_output(command)
    wait_until(zeo.reachable, "somebody else to listen")
    try:
        assert zeo.host.run("zeoctl start").rc != 0
        assert zeo.status() != 0
    finally:
        zeo.host.check_output("kill $(cat /run/intruder)")
    wait_until(lambda: not zeo.reachable(), "the port to be free")
    zeo.host.run("zeoctl stop")
    zeo.host.check_output("zeoctl start")
    zeo.expect(True)


def test_a_killed_manager_is_seen_and_a_start_takes_over(zeo):
    """Of hosts without systemd: the orphan goes on serving, holds the port, and nobody would start it again."""
    if zeo.systemd:
        assert zeo.parent_process() == "1", "the server has another parent than the init system"
        return
    loop, orphan = zeo.saving(), zeo.server_process()
    zeo.host.check_output("kill -9 %s", zeo.parent_process())
    wait_until(lambda: zeo.parent_process() == "1", "the server to be an orphan")
    assert zeo.status() == 4
    assert "without its manager" in zeo.host.run("service zeo status").stdout
    zeo.host.check_output("service zeo start")
    zeo.expect(True)
    assert zeo.server_process() != orphan
    assert zeo.parent_process() != "1"
    zeo.check(loop)


def test_both_killed_leave_a_stale_pid_that_deceives_nobody(zeo):
    if zeo.systemd:
        zeo.host.check_output("systemctl kill --signal=KILL zeo")
        zeo.expect(True)
        return
    zeo.host.check_output("kill -9 %s %s", zeo.parent_process(), zeo.server_process())
    wait_until(lambda: not zeo.reachable(), "the server to be gone")
    assert zeo.status() == 1
    assert zeo.host.run("service zeo reload").rc == 7
    zeo.host.check_output("service zeo start")
    zeo.expect(True)


def test_a_server_that_cannot_start_does_not_run(zeo):
    """A storage that cannot be opened: the start fails instead of trying for ever behind a manager that runs."""
    zeo.host.check_output("zeoctl stop")
    data = zeo.host.check_output("sed -n 's/^  path //p' /etc/zeo/zeo.conf").splitlines()[0]
    zeo.host.check_output("mv %s %s.away && mkdir %s", data, data, data)
    try:
        assert zeo.host.run("zeoctl start").rc != 0
        assert zeo.status() != 0
        assert not zeo.reachable()
    finally:
        zeo.host.run("zeoctl stop")
        zeo.host.check_output("rmdir %s && mv %s.away %s", data, data, data)
    if zeo.systemd:
        zeo.host.run("systemctl reset-failed zeo")
    zeo.host.check_output("zeoctl start")
    zeo.expect(True)


def test_exit_codes_are_those_of_lsb(zeo):
    """What is already as it was asked for is no failure; asking again changes nothing."""

    def service(action: str) -> int:
        return zeo.host.run("service zeo %s", action).rc

    serving = zeo.server_process()
    assert (service("status"), service("start"), service("reload")) == (0, 0, 0)
    assert zeo.server_process() == serving
    assert service("restart") == 0
    assert zeo.server_process() != serving
    zeo.expect(True)
    assert (service("stop"), service("stop"), service("status")) == (0, 0, 3)
    assert service("reload") != 0
    assert service("restart") == 0
    zeo.expect(True)


def test_unknown_words_are_refused(zeo):
    assert zeo.host.run("zeoctl nonsense").rc == 2
    if not zeo.systemd:
        assert zeo.host.run("/etc/init.d/zeo nonsense").rc == 2


def test_a_reboot(zeo):
    loop = zeo.saving()
    booted = zeo.host.check_output("cut -d' ' -f22 /proc/1/stat")
    disconnect(zeo.host)
    subprocess.run(
        [sys.executable, REPOSITORY / "molecule/shared/hosts.py", "restart", *inventory_options(), zeo.name],
        check=True,
    )
    assert zeo.host.check_output("cut -d' ' -f22 /proc/1/stat") != booted
    zeo.expect(True)
    zeo.check(loop)
    with socket.socket() as attempt:
        attempt.settimeout(3)
        # This machine is not in the list: the firewall is there again as well.
        assert attempt.connect_ex((zeo.values["address"], zeo.values["port"])) != 0
