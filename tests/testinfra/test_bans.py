"""Addresses that fail to log in are refused for a while; nobody else is, and nobody can be accused."""

import json
import shlex

import pytest
from conftest import wait_until

FAILURES = 4
JAIL = "peat-mysql"


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


@pytest.fixture(scope="module")
def knock(lab, modern):
    """knock(source, count, user) -> the errors of logins with a wrong password from an address of the client."""
    program = """
import json, socket, sys, pymysql
server, port, source, count, user = json.load(sys.stdin)
errors = []
for _ in range(count):
    try:
        pymysql.connect(host=server, port=port, user=user, password="wrong", bind_address=source, connect_timeout=5)
    except pymysql.MySQLError as error:
        errors.append(error.args[0])
print(json.dumps(errors))
"""

    def run(source: str, count: int, user: str = "farrell") -> list[int]:
        to = lab.server["address6" if ":" in source else "address"]
        what = json.dumps([to, lab.server["port"], source, count, user])
        line = f"echo {shlex.quote(what)} | /opt/relstorage4/bin/python -c {shlex.quote(program)}"
        return json.loads(modern.check_output(line))

    return run


@pytest.fixture(params=["address", "address6"])
def source(request, lab) -> str:
    return lab.hosts["modern"][request.param]


@pytest.fixture
def administrator(lab, modern):
    """One of the addresses in peat_admin_networks, on the client."""
    *_others, administrator = lab.server["admin_networks"]
    modern.check_output(f"ip address replace {administrator}/80 dev eth0 nodad")
    yield administrator
    modern.check_output(f"ip address delete {administrator}/80 dev eth0")


def banned(ask) -> list[str]:
    return ask(f"get {JAIL} banip").split()


def test_failed_logins_get_an_address_refused_for_a_while(jail, knock, source):
    assert knock(source, FAILURES - 1) == [1045] * (FAILURES - 1)
    assert banned(jail) == []
    knock(source, 1)
    wait_until(lambda: banned(jail) == [source], f"{source} to be refused")
    wait_until(lambda: knock(source, 1) == [2003], f"{source} to get no connection")
    jail(f"set {JAIL} unbanip {source}")
    assert knock(source, 1) == [1045]


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


def test_nobody_can_be_accused_by_a_user_name(jail, knock, server, lab):
    """A user name is whatever a client sends: here the whole line of a failure from another address."""
    innocent, source = lab.hosts["peat2"]["address"], lab.hosts["modern"]["address"]
    # Evidence is that the server ended a connection from there within the last minute, as it did in the test before.
    left = f"ss --no-header --numeric --tcp --all dst {innocent} and sport = :{lab.server['port']}"
    wait_until(lambda: not server.check_output(left), f"connections of {innocent} to be forgotten", 90)
    forged = f"x\n2026-01-01  0:00:00 1 [Warning] Access denied for user 'a'@'{innocent}' (using password: YES)\ny"
    knock(source, FAILURES, forged)
    # The log is read in order: who fails as people do is refused after the forged lines were seen.
    knock(source, FAILURES)
    wait_until(lambda: banned(jail), "somebody to be refused")
    assert banned(jail) == [source]
