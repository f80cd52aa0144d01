"""Encrypted connections: what a server shows, of whom it demands what, and what crosses the network.

farrell may use TLS, nielsen must, guest and visitor must show their own certificates, and thomsen, who uses
PEAT 2.3, comes through the forwarder. Each driver of RelStorage 4 uses what people's sheets say, the forwarder is
the stunnel of thomsen's.
"""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import json
import pathlib
import re
import shlex
import subprocess
import textwrap

import pytest
from conftest import CLIENTS, put, wait_until
from peat import encryption, pki
from verified import verify

#: Nobody else has a rule of their own: for nielsen `peat_tls` holds.
TLS = {"farrell": "offered", "guest": "certificate", "visitor": "certificate", "thomsen": "forwarder"}
FORWARDER_PORT = 8081
FILES = "/usr/local/lib/peat-tests/tls"
DRIVERS = encryption.DRIVERS


@pytest.fixture(scope="module")
def wanted(lab) -> dict:
    lists = {**lab.lists(), "peat_tls": "required"}
    lists["peat_people"].append({"name": "thomsen", "from": ["campus"]})
    for person in lists["peat_people"]:
        if person["name"] in TLS:
            person["tls"] = TLS[person["name"]]
    peat2, modern = {"thomsen"}, {"farrell", "nielsen", "guest", "visitor"}
    for project in lists["peat_projects"]:
        here = peat2 if project["clients"] == "peat2" else modern
        for level in ("write", "read"):
            project[level] = [name for name in project.get(level, []) if name in here | {"farrell"}]
    lists["peat_projects"][0]["write"].append("thomsen")
    return lists


@pytest.fixture(scope="module", autouse=True)
def converged(site, wanted, server):
    """The server with these people; what was predicted happened, and a second run finds nothing to do."""
    predicted = site(wanted, check=True)
    assert predicted.ok, predicted.failure
    run = site(wanted)
    assert run.ok, run.failure
    # On a host without stunnel, check mode does not say that it would come and be started.
    unforeseen = [("server", "forwarder : Install | stunnel"), ("server", "forwarder : Service | forwarder")]
    expected, happened = ([task for task in each.changed if task not in unforeseen] for each in (predicted, run))
    assert expected == happened
    again = site(wanted)
    assert again.ok, again.failure
    assert again.changed == []


@pytest.fixture(scope="module")
def sheets(lab) -> pathlib.Path:
    return pathlib.Path(lab.server["sheets"])


@pytest.fixture(scope="module")
def stranger_authority(tmp_path_factory) -> bytes:
    """An authority with the name of the lab's, but another."""
    folder = tmp_path_factory.mktemp("authority")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout key -out crt -addext keyUsage=keyCertSign"
    subprocess.run([*command.split(), "-subj", "/CN=PEAT Server CA"], cwd=folder, check=True, capture_output=True)
    return (folder / "crt").read_bytes()


@pytest.fixture(scope="module")
def arguments(modern, sheets, stranger_authority):
    """arguments(driver, person="nielsen", authority="ca") -> what the person's sheet says, with files on modern."""
    put(modern, (sheets / "ca.crt").read_bytes(), f"{FILES}/ca.crt")
    put(modern, stranger_authority, f"{FILES}/stranger.crt")
    for person, ending in itertools.product(("guest", "visitor"), ("crt", "key")):
        name = f"{person}.client.{ending}"
        put(modern, (sheets / name).read_bytes(), f"{FILES}/{name}")

    def of(driver: str, person: str = "nielsen", authority: str = "ca") -> dict:
        lines = re.findall(r"(?m)^    (ssl=.*)$", (sheets / f"{person}.txt").read_text())
        found = eval(f"dict({lines[DRIVERS.index(driver)]})")
        files = {**found["ssl"], "ca": f"{authority}.crt"}
        assert found["ssl"]["ca"] == "ca.crt"
        return {**found, "ssl": {name: f"{FILES}/{file}" for name, file in files.items()}}

    return of


@pytest.fixture(scope="module")
def probe(modern, lab):
    """probe(...) -> what a handshake of the host modern with the server gives; options of tls_probe.py."""
    path = "/usr/local/lib/peat-tests/tls_probe.py"
    put(modern, (CLIENTS / "tls_probe.py").read_bytes(), path)

    def run(server: str = lab.server["address"], port: int = lab.server["port"], **options) -> dict:
        words = ["python3", path, server, *([] if server == "self" else [str(port)])]
        words += [f"--{name}={value}" for name, value in options.items()]
        return json.loads(modern.check_output(shlex.join(words)))

    return run


@pytest.fixture(scope="module")
def open_project(run_client):
    """open_project(person, driver, **connect) -> the answer of a RelStorage 4 program that reads modernhp."""

    def run(person: str, driver: str, server: str | None = None, **connect) -> dict:
        options = {"server": server} if server else {}
        return run_client(
            "modern", "relstorage4", "open", person, "modernhp", driver=driver, connect=connect, **options
        )

    return run


@pytest.fixture(scope="module", autouse=True)
def written(run_client, converged, lab):
    """A project that nobody has written to cannot be opened by a reader."""
    answer = run_client("modern", "relstorage4", "add", "farrell", "modernhp", prefix="tls", records=1)
    assert answer["ok"], answer


@pytest.fixture(scope="module")
def configuration(sheets) -> str:
    """What thomsen's sheet gives to copy, for Linux and macOS."""
    sheet = (sheets / "thomsen.txt").read_text()
    block = sheet.partition("for Linux and macOS:\n\n")[2].partition("\n\nstunnel.conf, for Windows:")[0]
    return textwrap.dedent(block).rstrip() + "\n"


@pytest.fixture(scope="module")
def forwarders(peat2, lab, sheets, configuration, stranger_authority, converged):
    """forwarders(server, authority=...) -> the local port of a stunnel on the host peat2, as a sheet describes it."""
    if not peat2.exists("stunnel"):
        peat2.check_output("apt-get update --quiet && apt-get install --quiet --yes stunnel4")
    numbers, units = itertools.count(), []

    def start(server: str = lab.server["address"], authority: bytes | None = None) -> int:
        number = next(numbers)
        folder, unit, port = (
            f"{FILES}/forwarder-{number}",
            f"peat-test-forwarder-{number}",
            FORWARDER_PORT + 100 + number,
        )
        # The sheet is for the server's first address.
        text = configuration
        if server != lab.server["address"]:
            text = encryption.forwarder(server, FORWARDER_PORT)
        # Several run on one machine here.
        text = text.replace(f"accept = 127.0.0.1:{FORWARDER_PORT}", f"accept = 127.0.0.1:{port}")
        put(peat2, text.encode(), f"{folder}/{encryption.CONFIGURATION}")
        put(peat2, authority or (sheets / "ca.crt").read_bytes(), f"{folder}/{encryption.AUTHORITY}")
        peat2.check_output(
            f"systemctl reset-failed {unit} 2>/dev/null; systemd-run --quiet --collect --unit={unit}"
            f" --working-directory={folder} stunnel {encryption.CONFIGURATION}"
        )
        units.append(unit)
        wait_until(lambda: f"127.0.0.1:{port} " in peat2.check_output("ss -Hltn"), f"{unit} to listen")
        return port

    yield start
    for unit in units:
        peat2.run(f"systemctl stop {unit}")


# What the server shows


@pytest.mark.parametrize("address", ["address", "address6"])
def test_the_certificate_is_for_every_address_and_from_the_labs_authority(probe, lab, arguments, address):
    shown = probe(lab.server[address], ca=f"{FILES}/ca.crt")
    assert shown["ok"], shown
    assert {*map(ipaddress.ip_address, shown["names"])} >= {
        ipaddress.ip_address(lab.server[name]) for name in ("address", "address6")
    }
    assert "CERTIFICATE_VERIFY_FAILED" in probe(lab.server[address], ca=f"{FILES}/stranger.crt")["error"]
    refused = probe(lab.server[address], ca=f"{FILES}/ca.crt", name="other.example.org")
    assert "CERTIFICATE_VERIFY_FAILED" in refused["error"]


@pytest.mark.parametrize("address", ["address", "address6"])
@pytest.mark.parametrize(("version", "accepted"), [("1", False), ("1_1", False), ("1_2", True), ("1_3", True)])
def test_only_tls_1_2_and_newer(probe, lab, version, accepted, address):
    version = f"TLSv{version}"
    # This client can do it: what is refused is refused by the server.
    assert probe("self", version=version)["ok"]
    answer = probe(lab.server[address], version=version)
    assert answer["ok"] is accepted, answer
    assert not accepted or answer["version"] == version.replace("_", ".")


@pytest.mark.parametrize("address", ["address", "address6"])
@pytest.mark.parametrize(("version", "accepted"), [("1", False), ("1_1", False), ("1_2", True), ("1_3", True)])
def test_the_forwarder_takes_no_older_one_either(probe, lab, version, accepted, address):
    options = {"port": FORWARDER_PORT, "version": f"TLSv{version}", "at-once": "true"}
    answer = probe(lab.server[address], **options)
    assert answer["ok"] is accepted, answer


def test_openssl_agrees(modern, lab, arguments):
    command = f"openssl s_client -starttls mysql -connect {lab.server['address']}:{lab.server['port']} -brief"
    right = modern.run(f"{command} -CAfile {FILES}/ca.crt -verify_return_error </dev/null 2>&1").stdout
    wrong = modern.run(f"{command} -CAfile {FILES}/stranger.crt -verify_return_error </dev/null 2>&1").stdout
    assert "Verification: OK" in right and "TLSv1.3" in right
    assert "Verification: OK" not in wrong and "verify error" in wrong


def test_only_the_service_can_read_its_key(server):
    for folder, group in (("/etc/mysql/tls", "mysql"), ("/etc/peat-forwarder-tls", "peat-forwarder")):
        assert server.check_output(f"stat -c '%U %G %a' {folder}") == f"root {group} 750"
        assert server.check_output(f"stat -c '%U %G %a' {folder}/server.key") == f"root {group} 640"
    # Which the package brings later, for everybody.
    assert server.check_output("stat -c %a /etc/mysql") == "755"
    assert server.run("runuser -u nobody -- cat /etc/mysql/tls/server.key").rc != 0
    assert server.run("runuser -u peat-forwarder -- cat /etc/mysql/tls/server.key").rc != 0


# What it demands of whom


@pytest.mark.parametrize("address", ["address", "address6"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_whoever_must_use_tls_is_refused_without(open_project, arguments, lab, driver, address):
    in_clear = {"PyMySQL": {"ssl_disabled": True}, "MySQLdb": {"ssl_mode": "DISABLED"}}[driver]
    server = lab.server[address]
    assert open_project("farrell", driver, server, **in_clear)["ok"]
    assert open_project("nielsen", driver, server, **in_clear)["error"]["number"] == 1045
    assert open_project("nielsen", driver, server, **arguments(driver))["ok"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_sheets_arguments_refuse_another_authority(open_project, arguments, driver):
    assert open_project("nielsen", driver, **arguments(driver))["ok"]
    refused = open_project("nielsen", driver, **arguments(driver, authority="stranger"))
    assert not refused["ok"] and "self-signed certificate in certificate chain" in refused["error"]["text"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_person_needs_their_own_certificate(open_project, arguments, driver):
    assert open_project("guest", driver, **arguments(driver))["error"]["number"] == 1045
    assert open_project("guest", driver, **arguments(driver, "visitor"))["error"]["number"] == 1045
    assert open_project("guest", driver, **arguments(driver, "guest"))["ok"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_sheets_option_file_does_as_well(open_project, arguments, modern, sheets, driver):
    options = re.search(r"(?m)^    \[client\]\n(    ssl-.*\n)+", (sheets / "guest.txt").read_text())[0]
    text = re.sub(r"(?m)^ +", "", options).replace("=", f"={FILES}/")
    put(modern, text.encode(), f"{FILES}/options")
    assert text.count(FILES) == 3
    assert open_project("guest", driver, read_default_file=f"{FILES}/options")["ok"]


def test_a_lost_certificate_is_worth_nothing_once_replaced(site, wanted, open_project, arguments, sheets, modern):
    lost = {path: path.read_bytes() for path in sheets.glob("visitor.client.*")}
    assert len(lost) == 2
    for path in lost:
        path.unlink()
    assert open_project("visitor", "PyMySQL", **arguments("PyMySQL", "visitor"))["ok"]
    run = site(wanted)
    assert run.ok, run.failure
    assert open_project("visitor", "PyMySQL", **arguments("PyMySQL", "visitor"))["error"]["number"] == 1045
    for path in lost:
        put(modern, path.read_bytes(), f"{FILES}/{path.name}")
    assert open_project("visitor", "PyMySQL", **arguments("PyMySQL", "visitor"))["ok"]


# The check of a live lab


def test_the_check_of_a_live_lab_gets_in_as_each_of_them_has_to(wanted, lab):
    found = verify(wanted)
    assert found.code == 0, found.table
    for address in ("address", "address6"):
        where = f"modern, {lab.hosts['modern'][address]}"
        # thomsen through the forwarder, guest and visitor with certificates, nielsen encrypted.
        assert "5 people get in" in found.row("logins", where)["found"]
        assert "who does not encrypt (1045)" in found.row("refusals", where)["found"]
        assert "thomsen" not in found.row("refusals", where)["found"]
        for port in (lab.server["port"], FORWARDER_PORT):
            assert "396 days left" in found.row(f"TLS {port}", where)["found"]


# The forwarder


def test_peat_comes_through_the_forwarder_and_in_no_other_way(run_client, forwarders, lab, unused):
    for server in (lab.server["address"], lab.server["address6"]):
        port = forwarders(server)
        through = {"server": "127.0.0.1", "port": port}
        prefix = f"{unused}{port}"
        answer = run_client("peat2", "peat2", "add", "thomsen", "hewlsample", prefix=prefix, records=3, **through)
        assert answer["ok"], answer
        answer = run_client("peat2", "peat2", "read", "farrell", "hewlsample", prefix=prefix)
        assert len(answer["names"]) == 3 and answer["wrong"] == []
        direct = run_client("peat2", "peat2", "open", "thomsen", "hewlsample", server=server)
        assert direct["error"]["number"] == 1045
        # Its accounts, and no others.
        other = run_client("peat2", "peat2", "open", "farrell", "hewlsample", **through)
        assert other["error"]["number"] == 1045


def test_the_forwarder_refuses_another_server(run_client, forwarders, stranger_authority):
    port = forwarders(authority=stranger_authority)
    answer = run_client("peat2", "peat2", "open", "thomsen", "hewlsample", server="127.0.0.1", port=port)
    # The forwarder hangs up, before or after the driver began to wait for the server's first words.
    assert answer["error"]["number"] in (2002, 2013)


@pytest.mark.parametrize("address", ["address", "address6"])
def test_the_forwarders_port_is_for_its_peoples_networks(peat2, stranger, lab, address):
    connect = f"python3 -c 'import socket; socket.create_connection((\"{lab.server[address]}\", {FORWARDER_PORT}), 3)'"
    assert peat2.run(connect).rc == 0
    assert stranger.run(connect).rc != 0


# What crosses the network


@pytest.fixture
def crossing(server):
    """crossing(action) -> the bytes that cross the server's network card meanwhile."""
    program, unit, path = "/usr/local/lib/peat-tests/sniff.py", "peat-test-sniff", "/run/peat-test-sniff"
    put(server, (CLIENTS / "sniff.py").read_bytes(), program)

    def run(action) -> bytes:
        server.check_output(f"rm -f {path}; systemd-run --quiet --collect --unit={unit} python3 {program} {path}")
        try:
            wait_until(lambda: server.file(path).exists, "the sniffer")
            action()
        finally:
            server.run(f"systemctl stop {unit}")
        return server.run(f"cat {path}").stdout_bytes

    return run


def test_nothing_crosses_in_clear_where_tls_is_required(run_client, crossing, arguments, forwarders, lab, unused):
    numbers = itertools.count()

    def save(host, program, person, project, **options):
        marker = f"{unused}{next(numbers)}-content"
        seen = crossing(lambda: check(run_client(host, program, "add", person, project, prefix=marker, **options)))
        assert len(seen) > 10_000
        return marker.encode() in seen

    def check(answer):
        assert answer["ok"], answer

    # Otherwise nothing could be found below.
    assert save("peat2", "peat2", "farrell", "hewlsample")
    for driver, address in itertools.product(DRIVERS, ("address", "address6")):
        modernhp = ("modern", "relstorage4", "nielsen", "modernhp")
        assert not save(*modernhp, driver=driver, server=lab.server[address], connect=arguments(driver))
    assert save("modern", "relstorage4", "farrell", "modernhp", driver="MySQLdb")
    for address in ("address", "address6"):
        port = forwarders(lab.server[address])
        assert not save("peat2", "peat2", "thomsen", "hewlsample", server="127.0.0.1", port=port)


# Another certificate while people work


@pytest.fixture
def at_work(run_client, arguments, forwarders):
    """Two people save all the time, one of them through the forwarder. at_work(): their sessions have gone on."""
    local = {"server": "127.0.0.1", "port": forwarders()}
    # Longer than two runs of site.yml take on a busy machine.
    work = {"prefix": "rotate", "seconds": 1800}
    loops = [
        run_client.loop("modern", "relstorage4", "nielsen", "modernhp", connect=arguments("PyMySQL"), **work),
        run_client.loop("peat2", "peat2", "thomsen", "hewlsample", **local, **work),
    ]
    for loop in loops:
        loop.wait_for(2)

    def go_on() -> None:
        for loop, count in [(loop, len(loop.saved())) for loop in loops]:
            loop.wait_for(count + 3)

    yield go_on
    for loop in loops:
        loop.stop()


@pytest.fixture
def processes(server, lab):
    """processes() -> the ids of the server's and the forwarder's process."""
    unit = "mariadb" if lab.server["flavour"] == "mariadb" else "mysql"
    return lambda: server.check_output(f"systemctl show --property=MainPID {unit} peat-forwarder")


def test_another_name_reaches_new_connections_and_ends_no_session(
    site, wanted, probe, server, lab, at_work, processes, peat2, forwarders, run_client
):
    before, running = probe(ca=f"{FILES}/ca.crt"), processes()
    changed = {**wanted, "tls_names": ["peat.example.org"]}
    predicted = site(changed, check=True)
    assert probe()["fingerprint"] == before["fingerprint"]
    run = site(changed)
    assert run.ok, run.failure
    assert predicted.changed == run.changed != []
    assert predicted.diffs == run.diffs
    at_work()
    after = probe(ca=f"{FILES}/ca.crt")
    assert after["fingerprint"] != before["fingerprint"]
    assert "peat.example.org" in after["names"] and "peat.example.org" not in before["names"]
    assert probe(ca=f"{FILES}/ca.crt", name="peat.example.org")["ok"]
    assert processes() == running
    forwarded = f"openssl s_client -connect {lab.server['address']}:{FORWARDER_PORT} </dev/null 2>/dev/null"
    assert "peat.example.org" in server.check_output(f"{forwarded} | openssl x509 -noout -ext subjectAltName")
    assert site(changed).changed == []
    # By name: the server's own, and another that leads to it.
    for name, opens in (("peat.example.org", True), ("other.example.org", False)):
        peat2.check_output(f"echo {lab.server['address']} {name} >>/etc/hosts")
        through = {"server": "127.0.0.1", "port": forwarders(name)}
        assert run_client("peat2", "peat2", "open", "thomsen", "hewlsample", **through)["ok"] is opens


def test_a_certificate_is_renewed_before_it_expires(site, wanted, probe, sheets):
    """Not once it has expired: so many days before, and everybody keeps their subject."""
    before = probe()
    run = site({**wanted, "tls_renew_days": 398})
    assert run.ok, run.failure
    assert probe()["fingerprint"] != before["fingerprint"]
    assert not run.output_of("Accounts | Everybody")[0]["changed"]


def test_a_reload_that_was_missed_is_made_up_for(site, wanted, server, probe, lab):
    """A run that ended between the files and the server, or the forwarder, is finished by the next."""
    forwarder = {"port": FORWARDER_PORT, "at-once": "true"}
    before = probe()
    client, flush = {
        "mariadb": ("mariadb", "FLUSH SSL"),
        "mysql": ("mysql", "ALTER INSTANCE RELOAD TLS"),
    }[lab.server["flavour"]]
    for folder, group, where, reload in (
        ("/etc/mysql/tls", "mysql", {}, f"{client} --execute='{flush}'"),
        ("/etc/peat-forwarder-tls", "peat-forwarder", forwarder, "systemctl reload peat-forwarder"),
    ):
        server.check_output(f"cp -a {folder} /run/tls-before")
        command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=old -keyout server.key -out server.crt"
        server.check_output(f"cd {folder} && {command} && chgrp {group} server.* && chmod 640 server.*")
        server.check_output(reload)
        wait_until(lambda at=where: probe(**at)["fingerprint"] != before["fingerprint"], "another certificate")
        server.check_output(f"cp -a /run/tls-before/server.* {folder}/ && rm -r /run/tls-before")
    predicted = site(wanted, check=True)
    run = site(wanted)
    assert run.ok, run.failure
    tasks = ("mysql : Configure | options, unit and running server", "forwarder : Service | forwarder")
    assert predicted.changed == run.changed == [("server", task) for task in tasks]
    assert probe()["fingerprint"] == before["fingerprint"]
    wait_until(lambda: probe(**forwarder)["fingerprint"] == before["fingerprint"], "the forwarder's certificate")


# Certificates of others, and none


def test_a_certificate_that_was_issued_elsewhere(site, wanted, probe, lab, sheets, tmp_path):
    """Clients verify it by the authority that came with it, which then lies beside the sheets."""
    now = datetime.datetime.now(datetime.timezone.utc)
    authority = pki.new_authority("Elsewhere", pki.new_key(), now, 90)
    names = (lab.server["address"], lab.server["address6"], "peat.example.org")
    issued = pki.issue(pki.Request(pki.SERVER, "elsewhere", names), authority, now, 13)
    files = {
        "tls_certificate": pki.certificate_text(issued.certificate),
        "tls_key": pki.key_text(issued.key),
        "tls_authority": pki.certificate_text(authority.certificate),
    }
    for name, text in files.items():
        (tmp_path / name).write_bytes(text)
    given = {**wanted, **{name: str(tmp_path / name) for name in files}}
    # With an authority by which nobody could verify it, nothing is changed.
    refused = site({**given, "tls_authority": str(sheets.parents[1] / "tls/ca.crt")})
    assert not refused.ok and "is not from an authority in tls_authority" in refused.failure
    assert [task for task in refused.changed if task[1].startswith(("tls :", "mysql :"))] == []
    run = site(given)
    assert run.ok, run.failure
    assert "it was given and is not renewed here" in run.text
    for address in ("address", "address6"):
        assert probe(lab.server[address])["fingerprint"] == pki.fingerprint(issued.certificate)
    assert files["tls_authority"] in (sheets / "ca.crt").read_bytes()


def test_whoever_wants_none_gets_what_the_package_does(site, lab, server, probe):
    """Off is for the whole server; the lab's authority has nothing to do with what it then shows, if anything."""
    ours = probe()["fingerprint"]
    run = site({"peat_tls": "off"})
    assert run.ok, run.failure
    shown = probe()
    assert not shown["ok"] or shown["fingerprint"] != ours
    assert "/etc/mysql/tls" not in server.check_output("cat /etc/mysql/*.conf.d/*peat*")


# Secrets


def test_no_key_in_what_ansible_prints(site, wanted, lab, sheets):
    folder = sheets.parents[1] / "tls"
    for path in (folder / "server").iterdir():
        path.unlink()
    run = site(wanted, "-vvv")
    assert run.ok, run.failure
    passphrase = (folder / "ca.passphrase").read_text().strip()
    for path in (folder / "server/server.key", folder / "ca.key", sheets / "guest.client.key"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("-----")]
        assert lines and not [line for line in lines if line in run.text]
    assert passphrase not in run.text
    assert not re.search("BEGIN [A-Z ]*PRIVATE KEY", run.text)


def test_who_leaves_takes_the_forwarder_along(site, wanted, lab, server, stranger):
    without = {**wanted, "peat_people": [p for p in wanted["peat_people"] if p["name"] not in ("thomsen", "guest")]}
    without["peat_projects"] = [
        {
            **project,
            **{
                level: [n for n in project.get(level, []) if n not in ("thomsen", "guest")]
                for level in ("write", "read")
            },
        }
        for project in wanted["peat_projects"]
    ]
    run = site(without)
    assert run.ok, run.failure
    assert f":{FORWARDER_PORT} " not in server.check_output("ss -Hltn")
    assert not server.file("/etc/peat-forwarder-tls").exists
    assert server.run("getent passwd peat-forwarder || getent group peat-forwarder").rc != 0
    assert not list(pathlib.Path(lab.server["sheets"]).glob("guest.client.*"))
    assert site(without).changed == []
