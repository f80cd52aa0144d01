"""What the tests of a converged scenario work with.

The scenario's inventories come from PEAT_INVENTORY, separated by colons, as `ansible-playbook -i` was
given them. Tests reach every host over SSH, use projects with the real programs of tests/clients on the
client hosts, and change the server only through site.yml. Where a module gave the server
another list, the host becomes again what the scenario's inventory says before a module that needs it, and in the end.
"""

from __future__ import annotations

import base64
import concurrent.futures
import copy
import functools
import itertools
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import testinfra

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CLIENTS = REPOSITORY / "tests/clients"
#: Program of tests/clients -> (interpreter, option names of its own kind).
INTERPRETERS = {"peat2": "/opt/peat2/bin/python", "relstorage4": "/opt/relstorage4/bin/python"}
#: What of a host's variables the tests need, as Ansible sees them (templates resolved).
VARIABLES = """
{'address': ansible_host, 'address6': testhost_address6 | default(''), 'user': ansible_user | default('root'),
 'key': ansible_ssh_private_key_file | default(''), 'ssh_args': ansible_ssh_common_args | default(''),
 'port': (zeo_port | default(8090)) if 'zeo' in group_names else (mysql_port | default(8080)),
 'database_port': mysql_port | default(8080), 'serves_zeo': 'zeo' in group_names,
 'flavour': mysql_flavour | default('mariadb'),
 'image': testhost_image | default(''),
 'secrets': peat_secrets_dir | default(inventory_dir ~ '/secrets'),
 'sheets': peat_sheets_dir | default(inventory_dir ~ '/sheets/' ~ inventory_hostname),
 'admin_networks': peat_admin_networks | default([]),
 'networks': peat_networks | default([]), 'people': peat_people | default([]), 'projects': peat_projects | default([])}
"""


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30) -> object:
    """Return the first true value of `condition`, asked every 0.2 s; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)
    pytest.fail(f"{what}: not within {seconds:.0f} s")


def inventory_options() -> list[str]:
    folders = os.environ.get("PEAT_INVENTORY", "").split(":")
    if folders == [""]:
        pytest.exit("PEAT_INVENTORY names no inventory; run these tests with ./peat test SCENARIO", 2)
    return [f"--inventory={pathlib.Path(folder).resolve()}" for folder in folders]


def run_ansible(program: str, *arguments: str) -> tuple[int, dict | None, str]:
    """Run a program of Ansible in the repository; return its code, its report as data, and its text."""
    done = subprocess.run(
        [pathlib.Path(sys.executable).with_name(program), *inventory_options(), *arguments],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
            "ANSIBLE_CALLBACK_PLUGINS": str(REPOSITORY / "tests/ansible"),
            "ANSIBLE_CALLBACKS_ENABLED": "kept_modules",
        },
        text=True,
        capture_output=True,
    )
    start = done.stdout.find("{\n")
    try:
        report = json.loads(done.stdout[start:]) if start >= 0 else None
    except ValueError:
        report = None
    return done.returncode, report, done.stdout + done.stderr


# The scenario


@dataclass(frozen=True)
class Lab:
    """The scenario's hosts and list, as Ansible sees them."""

    hosts: dict[str, dict]

    @property
    def server(self) -> dict:
        return self.hosts["server"]

    def lists(self) -> dict[str, list]:
        """Copies of the three lists, to change and to give to `site`."""
        return {f"peat_{name}": copy.deepcopy(self.server[name]) for name in ("networks", "people", "projects")}

    def password(self, person: str) -> str:
        return pathlib.Path(self.server["secrets"], person).read_text().strip()


@pytest.fixture(scope="session")
def lab() -> Lab:
    message = f"msg={{{{ {VARIABLES} }}}}".replace("\n", " ")
    code, report, text = run_ansible("ansible", "mysql:zeo:clients", "-m", "ansible.builtin.debug", "-a", message)
    assert code == 0 and report, text
    results = report["plays"][0]["tasks"][0]["hosts"]
    return Lab({name: result["msg"] for name, result in results.items()})


def connect(values: dict) -> testinfra.host.Host:
    sockets = pathlib.Path("~/.ansible/cp").expanduser()
    sockets.mkdir(parents=True, exist_ok=True)
    return testinfra.get_host(
        f"ssh://{values['user']}@{values['address']}",
        ssh_identity_file=str(pathlib.Path(values["key"]).expanduser()),
        ssh_extra_args=values["ssh_args"],
        controlpath=f"{sockets}/testinfra-%%C",
    )


def disconnect(host: testinfra.host.Host) -> None:
    """Close the SSH connection that stays open between commands, before the other end vanishes without a word."""
    backend = host.backend
    arguments = ["-o", f"ControlPath={backend.controlpath.replace('%%', '%')}", "-o", f"User={backend.host.user}"]
    subprocess.run(["ssh", "-O", "exit", *arguments, backend.host.name], capture_output=True, check=True)


def put(host: testinfra.host.Host, content: bytes, path: str) -> None:
    """Write a file on a host; in pieces, for one word of a command line is at most 128 KiB."""
    text = base64.b64encode(content).decode()
    host.check_output(f"mkdir -p {os.path.dirname(path)}")
    for start in range(0, len(text), 60_000):
        piece, redirect = text[start : start + 60_000], ">>" if start else ">"
        host.check_output(f"echo {piece} | base64 --decode {redirect} {path}")


def background(unit: str, log: str, *options: str) -> str:
    """Shell words that make the command after them a unit of systemd; once they end, it runs and has its log."""
    words = ["systemd-run", "--quiet", "--collect", "--service-type=exec", f"--unit={unit}"]
    return f"rm -f {log} && {shlex.join([*words, f'--property=StandardOutput=file:{log}', *options])}"


def at_once(function: Callable, *arguments: tuple) -> list:
    """Call a function with each of the arguments, all at the same time; return what it returned, in their order."""
    with concurrent.futures.ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(lambda each: function(*each), arguments))


@functools.cache
def zeo_images() -> dict[str, str]:
    """The hosts of the scenario that serve ZEO, and what they are made of."""
    message = "msg={{ testhost_image }}"
    code, report, text = run_ansible("ansible", "zeo", "-m", "ansible.builtin.debug", "-a", message)
    assert code == 0 and report, text
    results = report["plays"][0]["tasks"][0]["hosts"]
    return {name: results[name]["msg"] for name in sorted(results)}


def zeo_names() -> list[str]:
    """Each host that serves ZEO."""
    return list(zeo_images())


def zeo_releases() -> list[str]:
    """One host of each release, for what the init system has no part in."""
    first = {image.partition("-")[0]: name for name, image in reversed(zeo_images().items())}
    return sorted(first.values())


def zeo_inits() -> list[str]:
    """One host of each init system, for what the release has no part in; the one of the newest release."""
    newest = {image.partition("-")[2]: name for name, image in sorted(zeo_images().items(), key=lambda item: item[1])}
    return sorted(newest.values())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for `zeo_name` once on each of them, or on those that its module names as ZEO_HOSTS."""
    if "zeo_name" in metafunc.fixturenames:
        names = getattr(metafunc.module, "ZEO_HOSTS", zeo_names)
        metafunc.parametrize("zeo_name", names(), scope="module")


@pytest.fixture(scope="session")
def hosts(lab: Lab) -> dict[str, testinfra.host.Host]:
    return {name: connect(values) for name, values in lab.hosts.items()}


@pytest.fixture(scope="session")
def server(hosts):
    """The database server."""
    return hosts["server"]


def confined(host: testinfra.host.Host, unit: str) -> bool:
    """Whether the process that a unit has now gets no privileges, and not every system call."""
    pid = host.check_output("systemctl show --property=MainPID --value %s", unit)
    status = dict(line.split(":\t", 1) for line in host.check_output("cat /proc/%s/status", pid).splitlines())
    # CAP_IPC_LOCK, which MariaDB's package asks for, is number 14.
    return (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2") and int(status["CapEff"], 16) in (0, 1 << 14)


@pytest.fixture(scope="session")
def peat2(hosts):
    """A host inside the lab's networks with PEAT 2.3 on it."""
    return hosts["peat2"]


@pytest.fixture
def undeclared_address(peat2, lab):
    """The PEAT host reaches the server from an address outside every network, as a laptop elsewhere would."""
    server, outside = lab.server["address"], f"{lab.server['address'].rpartition('.')[0]}.201"
    device = peat2.check_output("ip -o route get %s", server).split(" dev ")[1].split()[0]
    peat2.check_output("ip address add %s/24 dev %s", outside, device)
    peat2.check_output("ip route add %s/32 dev %s src %s", server, device, outside)
    yield outside
    peat2.check_output("ip route del %s/32", server)
    peat2.check_output("ip address del %s/24 dev %s", outside, device)


@pytest.fixture(scope="session")
def modern(hosts):
    """A host inside the lab's networks with RelStorage 4.3 on it."""
    return hosts["modern"]


@pytest.fixture(scope="session")
def stranger(hosts):
    """A host outside every declared network, with RelStorage 4.3 on it."""
    return hosts["stranger"]


@pytest.fixture(scope="session")
def sql(server) -> Callable[[str], list[list[str]]]:
    """Run SQL as root on the server's socket; rows of text."""
    program = "mariadb" if server.exists("mariadb") else "mysql"

    def run(statement: str) -> list[list[str]]:
        done = server.run("%s --batch --skip-column-names --execute=%s", program, statement)
        assert done.rc == 0, f"{statement}: {done.stderr}"
        # Not splitlines(): a salt of MySQL's may have any of the letters that end a line to Python.
        return [line.split("\t") for line in done.stdout.split("\n")[:-1]]

    return run


# site.yml


@dataclass(frozen=True)
class Run:
    """One run of site.yml."""

    code: int
    report: dict | None
    text: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    def results(self) -> Iterator[tuple[str, str, dict]]:
        """(task, host, result) in the order they happened."""
        for play in (self.report or {"plays": []})["plays"]:
            for task in play["tasks"]:
                for host, result in task["hosts"].items():
                    yield task["task"]["name"], host, result

    @property
    def changed(self) -> list[tuple[str, str]]:
        """(host, task) of everything changed, or in check mode, that would change; handlers included."""
        return [(host, task) for task, host, result in self.results() if result.get("changed")]

    @property
    def diffs(self) -> list[tuple[str, str, list]]:
        """(host, task, [[before, after] or the prepared text of each diff]) of everything in `changed`."""
        found = []
        for task, host, result in self.results():
            if result.get("changed"):
                parts = result.get("diff") or []
                parts = parts if isinstance(parts, list) else [parts]
                texts = [[part.get(key) for key in ("before", "after", "prepared")] for part in parts]
                found.append((host, task, texts))
        return found

    @property
    def failure(self) -> str:
        """The messages of the tasks that failed; the whole output if none has one."""
        return self.failure_of(None) or self.text

    def failure_of(self, only: str | None) -> str:
        """The messages of the tasks that failed on a host, or on any."""
        messages = []
        for task, host, result in self.results():
            if host == (only or host) and (result.get("failed") or result.get("unreachable")):
                message = result.get("msg", result)
                messages.append(f"{host}: {task}: {message if isinstance(message, str) else json.dumps(message)}")
        return "\n".join(messages)

    def output_of(self, text: str) -> list[dict]:
        """Results of the tasks with `text` in their name."""
        return [result for task, _host, result in self.results() if text in task]


class Site:
    """Runs site.yml of this repository on the scenario's hosts, with other variables if wanted."""

    def __init__(self) -> None:
        self.to_restore = False

    def __call__(self, variables: dict | None = None, *options: str, check: bool = False) -> Run:
        """`variables` win over the inventory's. Nothing is changed with `check`."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as extra:
            json.dump(variables or {}, extra)
            extra.flush()
            run = Run(
                *run_ansible(
                    "ansible-playbook",
                    "--diff",
                    *(["--check"] if check else []),
                    *([f"--extra-vars=@{extra.name}"] if variables else []),
                    *options,
                    "site.yml",
                )
            )
        if (variables or options) and not check and (run.report is None or run.changed):
            self.to_restore = True
        return run

    def restore(self) -> None:
        """Make the host again what the scenario's inventory says, if a run made it anything else."""
        if self.to_restore:
            run = self()
            assert run.ok, run.failure
            self.to_restore = False


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """site.yml; after the last test the host is what the inventory says."""
    runner = Site()
    yield runner
    # Hosts that are about to be removed need not be put in order for nobody.
    if not os.environ.get("PEAT_HOSTS_GO"):
        runner.restore()


@pytest.fixture(scope="module", autouse=True)
def as_listed(request, site) -> None:
    """Before a module's first test, too, unless the module is marked as working with `any_list`."""
    if not request.node.get_closest_marker("any_list"):
        site.restore()


# Real clients


@dataclass
class Loop:
    """A client that saves again and again in the background."""

    host: testinfra.host.Host
    unit: str
    log: str
    _answer: dict | None = field(default=None, repr=False)

    def lines(self) -> list[dict]:
        text = self.host.run("cat %s", self.log).stdout
        # The last line may be half written.
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def saved(self) -> list:
        """What the program was told is saved."""
        return [line["saved"] for line in self.lines() if "ok" not in line and "saved" in line]

    def wait_for(self, count: int, seconds: float = 60) -> None:
        """Wait until `count` saves are acknowledged."""
        wait_until(lambda: len(self.saved()) >= count or not self.running(), f"{self.unit}: {count} saves", seconds)
        assert len(self.saved()) >= count, self.errors()

    def running(self) -> bool:
        return self.host.run("systemctl is-active %s", self.unit).stdout.strip() in ("active", "activating")

    def end(self, seconds: float = 60) -> dict:
        """Wait until the program has ended; its answer."""
        wait_until(lambda: not self.running(), f"{self.unit} to end", seconds)
        lines = self.lines()
        assert lines and "ok" in lines[-1], self.errors()
        return lines[-1]

    def stop(self) -> None:
        self.host.run("systemctl stop %s", self.unit)

    def errors(self) -> str:
        return self.host.run("cat %s %s.err", self.log, self.log).stdout[-3000:]


class Clients:
    """Starts the programs of tests/clients on client hosts."""

    def __init__(self, lab: Lab, hosts: dict[str, testinfra.host.Host]):
        self.lab, self.hosts = lab, hosts
        self.numbers = itertools.count(1)
        self.loops: list[Loop] = []
        self.installed: set[tuple[str, str]] = set()
        self.installing = threading.Lock()

    def install(self, host: str, program: str) -> str:
        path = f"/usr/local/lib/peat-tests/{program}.py"
        with self.installing:
            if (host, program) not in self.installed:
                put(self.hosts[host], (CLIENTS / f"{program}.py").read_bytes(), path)
                self.installed.add((host, program))
        return path

    def command(self, host: str, program: str, command: str, person: str, project: str, **options) -> tuple[str, str]:
        """Shell words of one call, and the password it needs in PEAT_PASSWORD."""
        password = options.pop("password", None) or self.lab.password(person)
        common = {
            "server": options.pop("server", self.lab.server["address"]),
            "port": options.pop("port", self.lab.server["port"]),
            "project": project,
            "username": person,
        }
        common |= {name: options.pop(name) for name in ("backend", "ca", "certificate") if name in options}
        of_all = ("history-free", "create-schema", "read-only")
        flags = [f"--{flag}" for flag in of_all if options.pop(flag.replace("-", "_"), False)]
        if driver := options.pop("driver", None):
            common["driver"] = driver
        if connect := options.pop("connect", None):
            common["connect"] = json.dumps(connect)
        words = [INTERPRETERS[program], self.install(host, program)]
        words += [f"--{name}={value}" for name, value in common.items()] + flags + [command]
        words += [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
        return shlex.join(words), password

    def __call__(self, host: str, program: str, command: str, person: str, project: str, **options) -> dict:
        """Run a program as `person` and return its answer.

        options: password, server, port (the scenario's unless given), backend (`zeo`, with ca and certificate
        for TLS), driver, connect (more of the driver's arguments), history_free, create_schema, read_only, and the
        command's own.
        """
        line, password = self.command(host, program, command, person, project, **options)
        done = self.hosts[host].run(f"PEAT_PASSWORD={shlex.quote(password)} {line}")
        assert done.rc == 0 and done.stdout, f"{line}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])

    def loop(self, host: str, program: str, person: str, project: str, command: str = "commit-loop", **options) -> Loop:
        """Start a program that saves until it fails, or for `seconds`."""
        line, password = self.command(host, program, command, person, project, **options)
        unit = f"peat-test-{next(self.numbers)}"
        log = f"/run/{unit}.log"
        loop = Loop(self.hosts[host], unit, log)
        words = background(unit, log, f"--property=StandardError=file:{log}.err", f"--setenv=PEAT_PASSWORD={password}")
        loop.host.check_output(f"rm -f {log}.err && {words} {line}")
        self.loops.append(loop)
        return loop


@pytest.fixture(scope="module")
def run_client(lab: Lab, hosts) -> Iterator[Clients]:
    """run_client(host, program, command, person, project, **options) -> the program's answer."""
    clients = Clients(lab, hosts)
    yield clients
    for loop in clients.loops:
        loop.stop()


@pytest.fixture
def unused(request) -> str:
    """A prefix no other test and no earlier run of this one has stored anything under."""
    return f"{request.node.originalname.removeprefix('test_')[:20]}-{time.time_ns() // 1_000_000:x}-"


@pytest.fixture(scope="module")
def security() -> dict:
    """The options with which a ZEO client connects; test_zeo_tls.py has others."""
    return {}


@pytest.fixture
def program(run_client, lab, zeo_name, security):
    """program(command, **options) -> the answer of a session of its own with a server."""

    def session(command: str, project: str = "hewlsample", host: str = "modern", **options) -> dict:
        options = {"server": lab.hosts[zeo_name]["address"], "port": lab.hosts[zeo_name]["port"], **security, **options}
        return run_client(host, "relstorage4", command, "farrell", project, password="none", backend="zeo", **options)

    return session
