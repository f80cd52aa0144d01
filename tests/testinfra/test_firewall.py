"""Who gets through to the server's port, and that nothing that happens to a host opens it wider.

Most of it is shown with the role's module alone, given what the role gives it, or with the role by itself.
"""

from __future__ import annotations

import ipaddress
import json
import random
import shlex
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator

import onhost
import pytest
from conftest import Run, background, run_ansible, wait_until
from peat.ruleset import flatten

#: What the playbook gives the role.
FROM_THE_LIST = (
    "{{ {'networks': peat_networks, 'people': peat_people, 'projects': peat_projects,"
    " 'allow_anywhere': peat_allow_anywhere | default(false)} | peat_lab({}) | peat_openings(port=__port) }}"
)
TASK = "firewall : Configure | the table, its unit and the other firewalls of this host"
#: Neither in the list nor ssh; something of ours listens on it.
OTHER_PORT = 9099

#: Connects once; JSON of what a client sees, and after how many seconds.
CONNECT = """
import json, socket, sys, time
started = time.monotonic()
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20).close()
    seen = "open"
except OSError as error:
    seen = type(error).__name__
print(json.dumps([seen, time.monotonic() - started]))
"""

#: Connects again and again until it is told to stop; JSON of how often it saw what. It leaves others the processor.
KNOCK = """
import collections, json, signal, socket, sys, time
seen, running = collections.Counter(), True
def stop(*_):
    global running
    running = False
signal.signal(signal.SIGTERM, stop)
while running:
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20).close()
        seen["open"] += 1
    except OSError as error:
        seen[type(error).__name__] += 1
    time.sleep(0.001)
print(json.dumps(seen))
"""

#: Prints a line for each transaction of the kernel's ruleset.
MONITOR = """
import subprocess
monitor = subprocess.Popen(["/usr/sbin/nft", "monitor"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
print("watching", flush=True)
for line in monitor.stdout:
    if line.startswith("# new generation"):
        print("transaction", flush=True)
    elif line.startswith("#"):
        print(line, flush=True)
"""

#: Answers every client with what it sends.
ECHO = """
import socket, sys, threading
def serve(client):
    while data := client.recv(100):
        client.sendall(data)
listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""

#: Opens a connection, waits in silence until a file appears, then says something; what came of it.
TALK = """
import os, pathlib, socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
connection.sendall(b"x")
print("first:", connection.recv(1), flush=True)
while not os.path.exists(sys.argv[3]):
    time.sleep(0.1)
try:
    connection.sendall(b"y")
    print("second:", connection.recv(1), flush=True)
except OSError as error:
    print("second:", type(error).__name__, flush=True)
"""


def python(host, program: str, *arguments: object) -> str:
    return host.check_output("python3 -c %s " + shlex.join(map(str, arguments)), program)


def knock(host, address: str, port: int) -> str:
    """What one client sees: `open`, or the name of the error. It must not have to wait for it."""
    seen, seconds = json.loads(python(host, CONNECT, address, port))
    assert seconds < 3, f"{seen} after {seconds:.1f} s"
    return seen


class Unit:
    """A program of ours in the background of a host."""

    def __init__(self, host, name: str, program: str, *arguments: object) -> None:
        self.host, self.name, self.log = host, name, f"/run/{name}.log"
        words = shlex.join(map(str, arguments))
        host.check_output(f"{background(name, self.log)} python3 -c %s {words}", program)

    def output(self) -> str:
        return self.host.check_output("cat %s", self.log)

    def stop(self) -> None:
        self.host.run("systemctl stop %s", self.name)


class Role:
    """Runs the role firewall on the scenario's server."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __call__(self, *, check: bool = False, **variables: object) -> Run:
        given = {"__port": self.port, "firewall_openings": FROM_THE_LIST, **variables}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(given, file)
            file.flush()
            return Run(
                *run_ansible(
                    "ansible",
                    "server",
                    "--diff",
                    *(["--check"] if check else []),
                    f"--extra-vars=@{file.name}",
                    "--module-name=ansible.builtin.include_role",
                    "--args=name=firewall",
                )
            )


@pytest.fixture(scope="module")
def role(lab, peat2, modern, stranger) -> Iterator[Role]:
    # A test host that was made anew has another hardware address: its neighbours notice after seconds.
    for host in (peat2, modern, stranger):
        for family in ("address", "address6"):
            python(host, CONNECT, lab.server[family], 22)
    runner = Role(lab.server["port"])
    yield runner
    after = runner()
    assert after.ok, after.failure


@pytest.fixture(scope="module")
def change(lab, role) -> Iterator[Callable[..., onhost.Done]]:
    """change(check=False, **arguments): the module with other arguments than the role's."""
    before = role()
    assert before.ok and not before.changed, before.diffs or before.failure
    arguments = before.output_of(TASK.partition(" : ")[2])[0]["invocation"]["module_args"]
    with onhost.module(onhost.ssh(lab.server), "firewall_table") as module:
        yield lambda check=False, **others: onhost.Done(module({**arguments, **others}, check))


@pytest.fixture(scope="module")
def make(change) -> Callable[..., onhost.Done]:
    """make(**arguments): it must succeed, and change what a check run said it would; another changes nothing."""

    def run(**arguments: object) -> onhost.Done:
        predicted, done = change(check=True, **arguments), change(**arguments)
        assert predicted.ok, predicted.failure
        assert done.ok, done.failure
        assert predicted.changed and done.changed
        assert predicted.diff == done.diff
        again = change(**arguments)
        assert again.ok and not again.changed, again.diff
        return done

    return run


@pytest.fixture(autouse=True)
def reachable_other_port(server) -> Iterator[None]:
    """Something the firewall has no business with listens on the server."""
    unit = Unit(server, "peat-test-echo", ECHO, OTHER_PORT)
    wait_until(lambda: server.socket(f"tcp://:::{OTHER_PORT}").is_listening, "the echo program to listen")
    yield
    unit.stop()


@pytest.fixture(params=["address", "address6"])
def address(request, lab) -> str:
    """The server's IPv4 and IPv6 address."""
    return lab.server[request.param]


@pytest.fixture
def port(lab) -> int:
    return lab.server["port"]


@pytest.fixture
def declared(lab) -> list[str]:
    """All addresses of the list."""
    return [text for network in lab.server["networks"] for text in network["addresses"]]


def table(server) -> str:
    return server.check_output("nft --stateless list table inet peat")


# Who gets through


@pytest.mark.parametrize("name", ["peat2", "modern"])
def test_a_declared_address_gets_through(hosts, address, port, role, name):
    assert knock(hosts[name], address, port) == "open"


def test_a_stranger_is_refused_at_once(stranger, address, port, role):
    assert knock(stranger, address, port) == "ConnectionRefusedError"


@pytest.mark.parametrize("other", [22, OTHER_PORT])
def test_other_ports_are_left_alone(stranger, address, role, other):
    assert knock(stranger, address, other) == "open"


def test_the_server_reaches_itself(server, address, port, role):
    assert knock(server, address, port) == "open"


def test_what_was_counted_is_no_drift(server, change):
    assert "reject" in server.check_output("nft list table inet peat | grep 'packets [1-9]'")
    done = change()
    assert done.ok and not done.changed, done.diff


# What can happen to a host


@pytest.fixture
def nftables_service(server) -> Iterator[None]:
    """The distribution's own service runs, which empties the whole ruleset three ways."""
    # Systemd refuses to start a unit more than a few times in ten seconds.
    server.check_output("systemctl reset-failed nftables.service peat-firewall.service")
    server.check_output("systemctl start nftables.service")
    yield
    server.check_output("systemctl start peat-firewall.service && systemctl stop nftables.service")


@pytest.mark.parametrize(
    "command",
    [
        "systemctl reload nftables.service",
        "systemctl restart nftables.service",
        "systemctl stop nftables.service",
        "systemctl stop nftables.service && systemctl start nftables.service",
        "systemctl reload peat-firewall.service",
        "systemctl restart peat-firewall.service",
        "systemctl stop peat-firewall.service && ! systemctl is-active peat-firewall.service",
    ],
)
def test_the_table_is_there_after(server, stranger, lab, port, role, nftables_service, command):
    before = table(server)
    done = server.run(command)
    assert done.rc == 0, done.stderr
    assert table(server) == before
    for family in ("address", "address6"):
        assert knock(stranger, lab.server[family], port) == "ConnectionRefusedError"


def test_replacing_the_table_lets_nobody_in(server, stranger, address, port, role):
    knocking = Unit(stranger, "peat-test-knock", KNOCK, address, port)
    done = server.run("for run in $(seq 50); do systemctl reload peat-firewall.service || exit 1; done")
    knocking.stop()
    assert done.rc == 0, done.stderr
    seen = Counter(json.loads(knocking.output()))
    assert seen.pop("ConnectionRefusedError") > 1000
    assert not seen


def test_a_deleted_table_comes_back_with_the_next_run(server, stranger, lab, port, role, site):
    server.check_output("nft delete table inet peat")
    predicted, done = site(check=True), site()
    assert done.ok, done.failure
    assert predicted.changed == done.changed == [("server", TASK)]
    for family in ("address", "address6"):
        assert knock(stranger, lab.server[family], port) == "ConnectionRefusedError"


def test_a_table_that_was_changed_by_hand_is_put_back(server, lab, make, port):
    before = table(server)
    stranger = lab.hosts["stranger"]["address"]
    server.check_output(f"nft add element inet peat tcp_{port}_ipv4 {{ {stranger} }}")
    server.check_output("nft insert rule inet peat input udp dport 99 accept")
    diff = make().diff
    assert set(diff["before"].splitlines()) - set(diff["after"].splitlines()) == {
        f"set tcp_{port}_ipv4: {stranger}",
        "chain input: udp dport 99 accept",
    }
    assert table(server) == before


def test_whatever_would_be_missing_after_a_boot_is_put_back(server, make):
    drop_in = "/etc/systemd/system/nftables.service.d/peat-firewall.conf"
    server.check_output(f"echo >> /etc/peat-firewall.nft && rm {drop_in}")
    server.check_output("systemctl disable --now peat-firewall.service")
    diff = make().diff
    assert set(diff["before"].splitlines()) - set(diff["after"].splitlines()) == {
        "file /etc/peat-firewall.nft: differs",
        f"file {drop_in}: missing",
        "unit peat-firewall.service: disabled, inactive",
    }


def test_a_masked_unit_is_not_passed_over(server, change):
    unit = "/etc/systemd/system/peat-firewall.service"
    server.check_output(f"mv {unit} /root/ && systemctl mask peat-firewall.service")
    failed = change()
    server.check_output(f"systemctl unmask peat-firewall.service && mv /root/peat-firewall.service {unit}")
    server.check_output("systemctl daemon-reload")
    assert "systemctl unmask peat-firewall.service" in failed.failure


# What the list can say. From here on each test says all it needs, and the last one's is undone in the end.


def test_a_bad_address_is_refused_before_anything_is_changed(server, role, port):
    before = table(server)
    failed = role(firewall_openings=[{"port": port, "sources": []}], firewall_admin_sources=["192.0.2.1/24"])
    assert "firewall_admin_sources: '192.0.2.1/24' has host bits set: write 192.0.2.0/24" in failed.failure
    assert table(server) == before


def test_an_address_that_leaves_the_list_loses_its_open_connections(modern, peat2, lab, change, make, declared):
    assert change(openings=[{"port": OTHER_PORT, "sources": declared}]).ok
    go = "/run/peat-test-go"
    talks = []
    for host in (modern, peat2):
        host.check_output("rm -f %s", go)
        for family in ("address", "address6"):
            talks.append(Unit(host, f"peat-test-talk-{family}", TALK, lab.server[family], OTHER_PORT, go))
    for talk in talks:
        wait_until(lambda talk=talk: "first: b'x'" in talk.output(), "an open connection")
    stays = [lab.hosts["peat2"]["address"], lab.hosts["peat2"]["address6"]]
    make(openings=[{"port": OTHER_PORT, "sources": stays}])
    for host in (modern, peat2):
        host.check_output("touch %s", go)
    for talk in talks:
        wait_until(lambda talk=talk: "second:" in talk.output(), "the end of the conversation")
    cut, stayed = "second: ConnectionResetError", "second: b'y'"
    assert [talk.output().splitlines()[1] for talk in talks] == [cut, cut, stayed, stayed]


@pytest.fixture
def transactions(server) -> Iterator[Callable[[], list[str]]]:
    """transactions() -> what `nft monitor` has seen since the test's begin."""
    monitor = Unit(server, "peat-test-monitor", MONITOR)
    wait_until(lambda: "watching" in monitor.output(), "nft monitor")
    yield lambda: monitor.output().splitlines()[1:]
    monitor.stop()


@pytest.fixture
def knocked(modern, stranger, lab, port) -> Iterator[Callable[[str], Callable[[], Counter]]]:
    """knocked(host) starts clients of a host; what it returns ends them and says what they saw."""
    units = []

    def start(name: str) -> Callable[[], Counter]:
        host = {"modern": modern, "stranger": stranger}[name]
        own = [Unit(host, f"peat-test-knock-{f}", KNOCK, lab.server[f], port) for f in ("address", "address6")]
        units.extend(own)

        def end() -> Counter:
            for unit in own:
                unit.stop()
            return sum((Counter(json.loads(unit.output())) for unit in own), Counter())

        return end

    yield start
    for unit in units:
        unit.stop()


def test_ten_thousand_addresses_come_in_one_transaction(server, port, change, make, declared, transactions, knocked):
    """Nobody else is let in while one such list takes another's place, nobody declared refused while a few change."""
    dice = random.Random(1)
    numbers = dice.sample(range(2**27, 2**31), 16_000)
    many = [str(ipaddress.IPv4Address(number)) for number in numbers]
    many6 = [str(ipaddress.IPv6Address((0x20010DB8 << 96) + dice.getrandbits(80))) for _ in range(4_000)]
    # Half of the second list is in the first; and some networks are around addresses that are listed as well.
    around = [str(ipaddress.IPv4Network((number, 24), strict=False)) for number in numbers[6_000:6_500]]
    first = declared + many[:8_000] + many6[:2_000]
    second = declared + many[4_000:12_000] + many6[1_000:3_000] + around
    make(openings=[{"port": port, "sources": first}])
    elements = Counter(line.split(": ")[0] for line in flatten(table(server)).splitlines())
    assert elements[f"set tcp_{port}_ipv4"] > 7_900 and elements[f"set tcp_{port}_ipv6"] > 1_900
    strangers = knocked("stranger")
    assert change(openings=[{"port": port, "sources": second}]).changed
    assert list(strangers()) == ["ConnectionRefusedError"]
    members, strangers = knocked("modern"), knocked("stranger")
    few = [*second[:-3], *many[15_000:15_003], *many6[3_500:3_503]]
    assert change(openings=[{"port": port, "sources": few}]).changed
    seen = members()
    # A busy server may let a client wait; it is only the firewall that refuses one.
    assert seen["open"] and not {"ConnectionRefusedError", "ConnectionResetError"} & set(seen), seen
    assert list(strangers()) == ["ConnectionRefusedError"]
    assert transactions() == ["transaction"] * 3


def test_percent_is_everybody_and_an_empty_list_nobody(stranger, modern, lab, port, change):
    assert change(openings=[{"port": port, "sources": ["%"]}, {"port": OTHER_PORT, "sources": []}]).ok
    for family in ("address", "address6"):
        assert knock(stranger, lab.server[family], port) == "open"
        assert knock(modern, lab.server[family], OTHER_PORT) == "ConnectionRefusedError"


# Everything refused by default


def ssh_answers(address: str) -> bool:
    """Whether a new connection from this machine reaches sshd."""
    try:
        with socket.create_connection((address, 22), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"
    except ConnectionRefusedError:
        return False


def test_default_deny_refuses_the_rest_and_keeps_a_host_on_its_network(server, stranger, modern, lab, port, make):
    make(default_deny=True, admin_sources=[lab.hosts["stranger"]["address"]])
    for family in ("address", "address6"):
        assert knock(modern, lab.server[family], port) == "open"
        for closed in (port, OTHER_PORT):
            assert knock(stranger, lab.server[family], closed) == "ConnectionRefusedError"
    assert ssh_answers(lab.server["address"])
    assert knock(stranger, lab.server["address"], 22) == "open"
    assert knock(stranger, lab.server["address6"], 22) == "ConnectionRefusedError"
    # The host asks anew who its neighbours are, and its own connections are answered.
    server.check_output("ip neighbour flush all")
    for family in ("address", "address6"):
        assert knock(server, lab.hosts["modern"][family], 22) == "open"


def test_default_deny_keeps_ssh_where_ansible_comes_from_over_ipv6(lab, role):
    assert role().ok
    over_ipv6 = {"ansible_host": lab.server["address6"]}
    done = role(firewall_default_deny=True, **over_ipv6)
    kept = ssh_answers(lab.server["address6"]), ssh_answers(lab.server["address"])
    again = role(firewall_default_deny=True, **over_ipv6)
    restored = role(**over_ipv6)
    assert done.ok, done.failure
    assert kept == (True, False)
    assert again.ok and not again.changed, again.diffs
    assert restored.ok and ssh_answers(lab.server["address"])


def test_ssh_can_be_restricted_like_any_port_and_never_shuts_us_out(stranger, modern, lab, change):
    assert change(openings=[{"port": 22, "sources": [lab.hosts["modern"]["address"]]}]).ok
    assert ssh_answers(lab.server["address"])
    assert knock(modern, lab.server["address"], 22) == "open"
    assert knock(stranger, lab.server["address"], 22) == "ConnectionRefusedError"


# Other firewalls


@pytest.fixture
def another_firewall(request, server) -> Iterator[str]:
    """ufw or firewalld is active as its package sets it up; ssh is open in it."""
    name, start, end = request.param
    install = f"DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends {name}"
    for command in ("apt-get update --quiet", install, start):
        done = server.run(command)
        assert done.rc == 0, done.stdout + done.stderr
    yield name
    server.run(
        f"{end}; DEBIAN_FRONTEND=noninteractive apt-get purge --quiet --yes {name}; nft delete table inet firewalld"
    )
    for family in ("ip", "ip6"):
        server.run(f"nft delete table {family} filter")


#: Ways to start it anew.
AFTERWARDS = {
    "ufw": "ufw reload && systemctl restart ufw && ufw --force disable && ufw --force enable",
    "firewalld": "firewall-cmd --reload && systemctl restart firewalld",
}
FIREWALLS = pytest.mark.parametrize(
    "another_firewall",
    [
        pytest.param(("ufw", "ufw allow 22/tcp && ufw --force enable", "ufw --force disable"), id="ufw"),
        pytest.param(("firewalld", "firewall-cmd --state", "systemctl stop firewalld"), id="firewalld"),
    ],
    indirect=True,
)


@FIREWALLS
def test_an_active_firewall_opens_the_port_too(server, modern, stranger, lab, port, change, make, another_firewall):
    def only_the_declared_get_through() -> None:
        for family in ("address", "address6"):
            assert knock(modern, lab.server[family], port) == "open"
            assert knock(stranger, lab.server[family], port) == "ConnectionRefusedError"

    # Another port first: ours must take its place, in both.
    assert change(openings=[{"port": OTHER_PORT, "sources": ["%"]}]).ok
    assert knock(stranger, lab.server["address"], OTHER_PORT) == "open"
    assert make().warned(f"{another_firewall} is active on this host")
    only_the_declared_get_through()
    before = table(server)
    server.check_output(AFTERWARDS[another_firewall])
    assert table(server) == before
    only_the_declared_get_through()
