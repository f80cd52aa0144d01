"""A host with a database server and a ZEO server, and projects that move with playbooks/convert.yml.

Seen by the real PEAT 2.3 client. One project comes from the database server of another host, the others move on one.
"""

from __future__ import annotations

import json
import re

import pytest
from conftest import REPOSITORY, at_once, put, run_ansible

FIXTURES = REPOSITORY / "tests/fixtures"
FIXTURE = "relstorage-1.4-history-preserving"
STORED = "/var/lib/zeo/oldlab/Data.fs"
#: From the other host to this one, and within this one.
FROM_DATABASE = ("convert_project=oldlab", "convert_mysql=database")
INTO_DATABASE = ("convert_project=another", "convert_mysql=server")
COPIED = {"transactions": 13, "records": 1666, "objects": 1590, "blobs": 0}


def expected() -> dict:
    """What PEAT reads from the fixture."""
    return json.loads((FIXTURES / f"{FIXTURE}.json").read_text())


def playbook(name: str, *options: str) -> tuple[int, dict, str]:
    """Run a playbook; return its code, its results by (task, host), and its output."""
    words = [word for option in options for word in (("-e", option) if option[0] != "-" else (option,))]
    code, report, text = run_ansible("ansible-playbook", *words, f"playbooks/{name}.yml")
    results = {
        (task["task"]["name"], host): result
        for play in (report or {"plays": []})["plays"]
        for task in play["tasks"]
        for host, result in task["hosts"].items()
    }
    return code, results, text


def convert(*options: str) -> dict:
    """Run the playbook; return what it says is the same on both sides."""
    code, results, text = playbook("convert", *options)
    assert code == 0, text
    return results["Convert | Copy and compare", "server"]["copied"]


def refusal(*options: str) -> str:
    """Run the playbook, which must fail; return its output."""
    code, _results, text = playbook("convert", *options)
    assert code != 0, text
    return text


def listed(lab, backend: str) -> dict:
    """The lab's lists with oldlab in another backend."""
    lists = lab.lists()
    for project in lists["peat_projects"]:
        if project["name"] == "oldlab":
            project["backend"] = backend
    return lists


@pytest.fixture(scope="module")
def database(hosts):
    """The other host, with a database server only."""
    return hosts["database"]


def dump_of(host, name: str) -> str:
    """Return everything in a database."""
    return host.check_output("mariadb-dump --skip-comments --hex-blob --order-by-primary %s", name)


@pytest.fixture(scope="module")
def leftovers(server, database, lab):
    """What a conversion makes for its own time, and what is open."""

    def look() -> list[str]:
        found = [server.check_output("ls -d /var/lib/zeo/*.* /var/tmp/zodb* 2>/dev/null || true")]
        for host in (server, database):
            found += [
                host.check_output("mariadb -Ne \"SELECT user FROM mysql.user WHERE user LIKE '%convert%'\""),
                host.check_output("mariadb -Ne \"SHOW DATABASES LIKE '%~%'\""),
                host.check_output("nft list table inet peat | grep -wF %s || true", lab.server["address"]),
            ]
        return [text for text in found if text]

    return look


@pytest.fixture(scope="module")
def peat(run_client, lab):
    """peat(command, project, backend, ...) -> the answer of PEAT 2.3 as farrell, at the server of both."""

    def run(command: str, project: str, backend: str, **options) -> dict:
        if backend == "relstorage":
            return run_client(
                "peat2", "peat2", command, "farrell", project, port=lab.server["database_port"], **options
            )
        return run_client("peat2", "peat2", command, "farrell", project, backend=backend, **options)

    return run


# One host, two servers


#: Prints how a connection from each of the addresses ends.
CONNECT = """
import json, socket, sys
def seen(source):
    try:
        server = sys.argv[2 if ":" in source else 1]
        socket.create_connection((server, int(sys.argv[3])), timeout=10, source_address=(source, 0)).close()
        return "open"
    except OSError as error:
        return type(error).__name__
print(json.dumps({source: seen(source) for source in sys.argv[4:]}))
"""


@pytest.fixture(scope="module")
def addresses(lab, peat2):
    """Addresses of the client's host by where they belong: in the list, and to no network of it."""
    four, six = lab.server["address"].rpartition(".")[0], lab.server["address6"].rpartition("::")[0]
    found = {
        "campus": [f"{four}.71", f"{six}:ca::71"],
        "annex": [f"{four}.130", f"{six}:ab::130"],
        "elsewhere": [f"{four}.201", f"{six}:bad::201"],
    }
    device = peat2.check_output("ip -o route get %s", lab.server["address"]).split(" dev ")[1].split()[0]
    both = [f"{address}/{64 if ':' in address else 24}" for pair in found.values() for address in pair]
    for address in both:
        peat2.check_output("ip address replace %s dev %s nodad", address, device)
    yield found
    for address in both:
        peat2.check_output("ip address del %s dev %s", address, device)


@pytest.mark.parametrize(("server_of", "allowed"), [("database_port", {"campus", "annex"}), ("port", {"campus"})])
def test_each_server_is_open_for_its_own_people(peat2, lab, addresses, server_of, allowed):
    """Both have one firewall table; neither closes the other's port, nor opens it wider."""
    words = [lab.server["address"], lab.server["address6"], str(lab.server[server_of])]
    words += [address for pair in addresses.values() for address in pair]
    seen = json.loads(peat2.check_output("python3 -c %s " + " ".join(words), CONNECT))
    assert seen == {
        address: "open" if place in allowed else "ConnectionRefusedError"
        for place, pair in addresses.items()
        for address in pair
    }


def test_the_zeo_server_runs_on_the_interpreter_that_was_named(server):
    assert server.check_output("/opt/zeo/bin/python -c 'import sys; print(sys.version_info[:2])'") == "(2, 7)"
    assert server.check_output("readlink /opt/zeo").startswith("/opt/zeo-peat2-")


def test_peat_works_with_both(peat, unused):
    for project, backend in (("my_sandbox", "zeo"), ("screening", "relstorage")):
        assert peat("add", project, backend, prefix=unused, records=20, commits=2)["ok"]
        read = peat("read", project, backend, prefix=unused)
        assert (len(read["names"]), read["wrong"]) == (20, [])


# From one backend to the other


@pytest.fixture(scope="module")
def on_zeo(lab, site, database):
    """oldlab, loaded into the other host's database, is in ZEO in the list and converted; what that database had."""
    put(database, (FIXTURES / f"{FIXTURE}.sql.gz").read_bytes(), "/root/old.sql.gz")
    code, _results, text = playbook(
        "import", "import_project=oldlab", "import_dump=/root/old.sql.gz", "--limit=database"
    )
    assert code == 0, text
    run = site(listed(lab, "zeo"))
    assert run.ok, run.failure
    before = dump_of(database, "oldlab")
    extra = json.dumps(listed(lab, "zeo"))
    code, results, text = playbook("convert", *FROM_DATABASE, "--check", extra)
    assert code == 0 and not any(result.get("changed") for result in results.values()), text
    assert convert(*FROM_DATABASE, extra) == COPIED
    return before


def test_from_relstorage_to_zeo(on_zeo, peat, database, leftovers):
    answer = peat("dump", "oldlab", "zeo")
    assert answer["ok"], answer
    assert {key: answer[key] for key in ("records", "log")} == expected()
    assert dump_of(database, "oldlab") == on_zeo, "the source is not as it was"
    assert leftovers() == []


def test_nothing_is_left_of_it_for_site(on_zeo, lab, site):
    assert site(listed(lab, "zeo"), check=True).changed == []


def test_a_storage_with_objects_is_not_overwritten(on_zeo, lab, server, leftovers):
    before = server.check_output("sha256sum %s", STORED)
    text = refusal(*FROM_DATABASE, json.dumps(listed(lab, "zeo")))
    # ZEO counts those that were deleted as well.
    assert "is not empty: it has 1600 objects in 13 transactions" in text
    assert server.check_output("sha256sum %s", STORED) == before
    assert leftovers() == []


# What follows leaves the list as the inventory has it: oldlab is in the database again, its storage no longer served.


@pytest.fixture(scope="module")
def back(on_zeo, site):
    site.to_restore = True
    site.restore()


def test_a_served_source_is_refused_and_a_database_with_objects_not_overwritten(back, on_zeo, database):
    served, filled = at_once(
        refusal,
        (*INTO_DATABASE, "convert_from=/var/lib/zeo/my_sandbox/Data.fs"),
        FROM_DATABASE,
    )
    assert "is served as my_sandbox" in served
    assert "is not empty: it has objects" in filled
    assert dump_of(database, "oldlab") == on_zeo


def test_a_failed_copy_leaves_the_project_empty_and_nothing_else(back, server, leftovers):
    server.check_output("mkdir -p /root/broken && head --bytes=100000 %s > /root/broken/Data.fs", STORED)
    # FileStorage reads what is whole; this transaction is not.
    server.check_output("printf 'x%.0s' $(seq 100) | dd of=/root/broken/Data.fs bs=1 seek=4 conv=notrunc status=none")
    before = dump_of(server, "another")
    text = refusal(*INTO_DATABASE, "convert_from=/root/broken/Data.fs")
    assert "The project has none of the data, the source is untouched" in text
    assert dump_of(server, "another") == before
    assert leftovers() == []


def test_attached_files_do_not_move_to_where_peat_would_not_find_them(back, server, peat, leftovers, unused):
    attached = peat("attach", "my_sandbox", "zeo", prefix=unused)
    assert attached["ok"] and peat("attachment", "my_sandbox", "zeo", prefix=unused) == attached
    server.check_output("rm -rf /root/attached && cp -a /var/lib/zeo/my_sandbox /root/attached")
    text = refusal(*INTO_DATABASE, "convert_from=/root/attached/Data.fs")
    assert re.search(r"the source has [1-9]\d* attached files, and PEAT 2.3 does not find files in a database", text)
    assert leftovers() == []


#: The program, with a storage that loses or changes something while it is filled.
DAMAGED = """
import imp, json, sys
from ZODB.FileStorage import FileStorage
sys.dont_write_bytecode = True
program = imp.load_source("program", "/opt/zodb-convert/bin/zodb-convert")
restore, count = FileStorage.restore, [0]
def damaged(self, oid, serial, data, *rest):
    count[0] += 1
    if count[0] == 700:
        if sys.argv[1] == "lost":
            return
        data = data[:-2] + b"x."
    return restore(self, oid, serial, data, *rest)
FileStorage.restore = damaged
try:
    print(program.convert(json.load(sys.stdin)))
except program.Failure as error:
    print("Failure: %s" % error)
"""


@pytest.mark.parametrize("damage", ["none", "lost", "changed"])
def test_a_copy_that_differs_is_noticed(back, server, damage):
    folder = server.check_output("mktemp -d")
    settings = {
        "source": {"path": STORED, "blob_dir": "/var/lib/zeo/oldlab/blobs"},
        "target": {"path": f"{folder}/Data.fs", "blob_dir": f"{folder}/blobs"},
        "blobs": True,
    }
    program = DAMAGED.replace("== 700", "== -1") if damage == "none" else DAMAGED
    put(server, program.encode(), f"{folder}/program.py")
    put(server, json.dumps(settings).encode(), f"{folder}/settings")
    said = server.check_output(f"/opt/zodb-convert/bin/python {folder}/program.py {damage} < {folder}/settings")
    if damage == "none":
        assert not said.startswith("Failure") and "1666" in said
    else:
        assert said.startswith("Failure: object ") and "is not the same" in said


def test_from_zeo_to_relstorage(back, server, peat, leftovers):
    before = server.check_output("sha256sum %s", STORED)
    assert convert(*INTO_DATABASE, f"convert_from={STORED}") == COPIED
    answer = peat("dump", "another", "relstorage")
    assert answer["ok"], answer
    assert {key: answer[key] for key in ("records", "log")} == expected()
    assert server.check_output("sha256sum %s", STORED) == before, "the source is not as it was"
    assert leftovers() == []


def test_work_goes_on_in_it(back, peat, unused):
    """New objects get ids of their own, those of the old ones are not given out again."""
    assert peat("add", "another", "relstorage", prefix=unused, records=20)["ok"]
    answer = peat("dump", "another", "relstorage")
    assert {name: answer["records"][name] for name in expected()["records"]} == expected()["records"]
    assert len(peat("read", "another", "relstorage", prefix=unused)["names"]) == 20


# For current clients, on the same host: between a file, RelStorage 4.3 and ZEO 6.

#: Makes a FileStorage with some history and an attached file.
MAKE = b"""
import os, sys, transaction
from ZODB import DB
from ZODB.FileStorage import FileStorage
from ZODB.blob import Blob
from persistent.mapping import PersistentMapping
os.makedirs("/root/modern")
database = DB(FileStorage("/root/modern/Data.fs", blob_dir="/root/modern/blobs"))
root = database.open().root()
for number in range(100):
    root[number % 50] = PersistentMapping(number=number)
    transaction.get().note("number %d" % number)
    transaction.commit()
root["file"] = Blob(b"attached " * 100000)
transaction.commit()
database.close()
"""

#: Prints what a client of the server gets.
READ = b"""
import tempfile, ZEO
connection = ZEO.connection(8090, storage="modern", wait_timeout=20, blob_dir=tempfile.mkdtemp())
root = connection.root()
with root["file"].open("r") as file:
    whole = file.read() == b"attached " * 100000
print(sorted(key for key in root if key != "file") == list(range(50)), root[49]["number"], whole)
"""


@pytest.fixture(scope="module")
def current(lab, site, server) -> str:
    """The same servers with projects of current clients; their lists, as a playbook's option."""
    people = {"write": ["farrell", "nielsen"]}
    lists = lab.lists() | {
        "peat_projects": [
            {"name": "modernhp", "clients": "relstorage4", **people},
            {"name": "modernhf", "clients": "relstorage4", "keep_history": False, **people},
            {"name": "modern", "backend": "zeo", "clients": "current", **people},
        ]
    }
    run = site(lists, "--limit=server")
    assert run.ok, run.failure
    put(server, MAKE, "/root/make.py")
    server.check_output("rm -rf /root/modern && /opt/zeo/bin/python /root/make.py")
    return json.dumps(lists)


def test_current_data_moves_between_a_file_databases_and_zeo(current, server, leftovers):
    """Each copy is compared by the program; in the end, a client of ZEO reads it."""
    on_server, from_file = ("convert_mysql=server", current), "convert_from=/root/modern/Data.fs"
    copied = {"transactions": 102, "records": 203, "objects": 102, "blobs": 1}
    assert convert("convert_project=modernhp", *on_server, from_file) == copied
    assert convert("convert_project=modernhf", *on_server, from_file) == copied
    assert convert("convert_project=modern", *on_server, "convert_from=modernhp") == copied
    put(server, READ, "/root/read.py")
    assert server.check_output("/opt/zeo/bin/python /root/read.py") == "True 99 True"
    assert leftovers() == []
