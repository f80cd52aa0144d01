"""Addresses that fail to log in are refused for a while; nobody else is, and nobody can be accused."""

import json
import shlex

import pytest
from conftest import wait_until

FAILURES = 4
JAIL = "peat-mysql"
EVIDENCE = "inet peat-bans"


@pytest.fixture(scope="module")
def jail(server):
    """A jail that is quick to refuse; the inventory's is lenient, because tests fail to log in on purpose."""

    def ask(command: str) -> str:
        return server.check_output(f"fail2ban-client {command}")

    ask(f"set {JAIL} maxretry {FAILURES}")
    ask(f"set {JAIL} bantime 600")
    yield ask
    ask(f"reload --unban {JAIL}")


@pytest.fixture(autouse=True)
def forgiven(server):
    yield
    server.check_output("fail2ban-client unban --all")
    forget(server)


@pytest.fixture(scope="module")
def knock(lab, modern):
    """knock(source, count, user, end) -> the errors of logins with a wrong password from an address of the client.

    `end` is how the client ends its connections: as usual, "half" (it closes its side before the server has answered)
    or "reset" (it forgets a connection that the server has closed).
    """
    program = """
import json, socket, struct, sys, pymysql

class Half(socket.socket):
    def sendall(self, data):
        super().sendall(data)
        self.shutdown(socket.SHUT_WR)

server, port, source, count, user, end = json.load(sys.stdin)
errors = []
for _ in range(count):
    try:
        connection = socket.create_connection((server, port), 5, (source, 0))
        if end == "half":
            connection = Half(fileno=connection.detach())
        if end == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        login = pymysql.Connection(user=user, password="wrong", ssl_disabled=end == "half", defer_connect=True)
        login.connect(connection)
    except pymysql.MySQLError as error:
        errors.append(error.args[0])
    except ConnectionRefusedError:
        errors.append(2003)
print(json.dumps(errors))
"""

    def run(source: str, count: int, user: str = "farrell", end: str = "") -> list[int]:
        to = lab.server["address6" if ":" in source else "address"]
        what = json.dumps([to, lab.server["port"], source, count, user, end])
        line = f"echo {shlex.quote(what)} | /opt/relstorage4/bin/python -c {shlex.quote(program)}"
        return json.loads(modern.check_output(line))

    return run


@pytest.fixture(params=["address", "address6"])
def source(request, lab) -> str:
    return lab.hosts["modern"][request.param]


@pytest.fixture(params=[4, 6])
def administrator(request, lab, modern):
    """The IPv4 or the IPv6 address in peat_admin_networks, on the client."""
    (administrator,) = (each for each in lab.server["admin_networks"] if (":" in each) == (request.param == 6))
    prefix = "80 dev eth0 nodad" if request.param == 6 else "24 dev eth0"
    modern.check_output(f"ip address replace {administrator}/{prefix}")
    yield administrator
    modern.check_output(f"ip address delete {administrator}/{prefix.removesuffix(' nodad')}")


def banned(ask) -> list[str]:
    return ask(f"get {JAIL} banip").split()


def forget(server) -> None:
    """Have the server forget to whom it has spoken, as it does by itself within a minute."""
    for answered in ("answered4", "answered6"):
        server.check_output(f"nft flush set {EVIDENCE} {answered}")


def test_failed_logins_get_an_address_refused_for_a_while(jail, knock, source):
    assert knock(source, FAILURES - 1) == [1045] * (FAILURES - 1)
    assert banned(jail) == []
    knock(source, 1)
    wait_until(lambda: banned(jail) == [source], f"{source} to be refused")
    wait_until(lambda: knock(source, 1) == [2003], f"{source} to get no connection")
    jail(f"set {JAIL} unbanip {source}")
    assert knock(source, 1) == [1045]


@pytest.mark.parametrize("end", ["half", "reset"])
def test_it_does_not_help_to_end_connections_in_another_way(jail, knock, lab, source, end):
    if end == "half" and lab.server["flavour"] == "mysql":
        pytest.skip("MySQL's way to log in needs a second answer of the client")
    assert knock(source, FAILURES, end=end) == [1045] * FAILURES
    wait_until(lambda: banned(jail) == [source], f"{source} to be refused")


def test_the_time_ends(jail, knock, source):
    jail(f"set {JAIL} bantime 2")
    try:
        knock(source, FAILURES)
        wait_until(lambda: banned(jail) == [source], f"{source} to be refused")
        wait_until(lambda: banned(jail) == [], f"{source} to be let in again")
        assert knock(source, 1) == [1045]
    finally:
        jail(f"set {JAIL} bantime 600")


def test_open_sessions_and_other_addresses_go_on(jail, knock, run_client, lab, modern, peat2, unused):
    loop = run_client.loop("modern", "relstorage4", "farrell", "modernhp", prefix=unused, seconds=30)
    loop.wait_for(1)
    source = lab.hosts["modern"]["address"]
    knock(source, FAILURES)
    wait_until(lambda: banned(jail) == [source], f"{source} to be refused")
    loop.wait_for(len(loop.saved()) + 3)
    loop.stop()
    assert run_client("peat2", "peat2", "add", "farrell", "hewlsample", prefix=unused)["ok"]


def test_an_administrators_address_is_never_refused(jail, knock, server, administrator):
    assert knock(administrator, 3 * FAILURES) == [1045] * (3 * FAILURES)
    wait_until(
        lambda: f"Ignore {administrator}" in server.check_output("tail --lines=50 /var/log/fail2ban.log"),
        "the failures to be seen",
    )
    assert banned(jail) == []


@pytest.mark.parametrize("family", ["address", "address6"])
def test_nobody_can_be_accused_by_a_user_name(jail, knock, server, run_client, lab, family):
    """A user name is whatever a client sends: here the whole line of a failure from another address."""
    innocent, source = lab.hosts["peat2"][family], lab.hosts["modern"][family]
    forged = f"x\n2026-01-01  0:00:00 1 [Warning] Access denied for user 'a'@'{innocent}' (using password: YES)\ny"
    forget(server)
    knock(source, FAILURES, forged)
    # The log is read in order: who fails as people do is refused after the forged lines were seen.
    knock(source, FAILURES)
    wait_until(lambda: banned(jail), "somebody to be refused")
    assert banned(jail) == [source]
    # It is the evidence that protects: with it, which whoever uses the server leaves, the same line is believed.
    jail("unban --all")
    assert run_client("peat2", "peat2", "open", "guest", "hewlsample", server=lab.server[family])["ok"]
    if lab.server["flavour"] == "mariadb":
        knock(source, FAILURES, forged)
        wait_until(lambda: banned(jail) == [innocent], f"{innocent} to be refused")


def test_evidence_is_collected_again_after_the_ruleset_was_emptied(jail, knock, server, lab):
    server.check_output(f"nft delete table {EVIDENCE}")
    source = lab.hosts["modern"]["address"]
    knock(source, 1)
    wait_until(lambda: server.run(f"nft list table {EVIDENCE}").rc == 0, "the table to be there again")
    knock(source, FAILURES)
    wait_until(lambda: banned(jail) == [source], f"{source} to be refused")


def test_evidence_is_collected_whenever_fail2ban_runs(server):
    there = f"nft list table {EVIDENCE}"
    for command in ("nft -f /etc/peat-firewall.nft", "fail2ban-client reload"):
        server.check_output(f"{command} && {there}")
    for command in ("reload", "restart"):
        server.check_output(f"nft delete table {EVIDENCE} && systemctl {command} fail2ban && {there}")
    wait_until(lambda: server.run("fail2ban-client ping || false").rc == 0, "fail2ban to be ready")
