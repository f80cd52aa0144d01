"""Projects moved between RelStorage and ZEO with playbooks/convert.yml, as the real PEAT 2.3 client sees them."""

from __future__ import annotations

import json

import pytest
from conftest import REPOSITORY, at_once, put, run_ansible

FIXTURES = REPOSITORY / "tests/fixtures"
FIXTURE = "relstorage-1.4-history-preserving"
STORED = "/var/lib/zeo/oldlab/Data.fs"
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
    """The database server."""
    return hosts["database"]


@pytest.fixture(scope="module")
def dump_of(database):
    """dump_of(name) -> everything in a database."""

    def dump(name: str) -> str:
        return database.check_output("mariadb-dump --skip-comments --hex-blob --order-by-primary %s", name)

    return dump


@pytest.fixture(scope="module")
def leftovers(server, database, lab):
    """What a conversion makes for its own time, and what is open."""

    def look() -> dict:
        return {
            "accounts": database.check_output(
                "mariadb -Ne \"SELECT user FROM mysql.user WHERE user LIKE '%convert%'\""
            ),
            "databases": database.check_output("mariadb -Ne \"SHOW DATABASES LIKE '%~%'\""),
            "folders": server.check_output("ls -d /var/lib/zeo/*.* /var/tmp/zodb* 2>/dev/null || true"),
            "firewall": database.check_output(
                "nft list table inet peat | grep --count --fixed-strings %s || true", lab.server["address"]
            ),
        }

    return look


CLEAN = {"accounts": "", "databases": "", "folders": "", "firewall": "0"}


@pytest.fixture(scope="module")
def peat(run_client, lab):
    """peat(command, project, backend, ...) -> the answer of PEAT 2.3 as farrell."""

    def run(command: str, project: str, backend: str, **options) -> dict:
        values = lab.hosts["server" if backend == "zeo" else "database"]
        kind = {"backend": "zeo"} if backend == "zeo" else {}
        options |= {"server": values["address"], "port": values["port"], **kind}
        return run_client("peat2", "peat2", command, "farrell", project, **options)

    return run


@pytest.fixture(scope="module")
def on_zeo(lab, site, database, dump_of):
    """oldlab, loaded into the database, is in ZEO in the list and was converted; what the database held before."""
    put(database, (FIXTURES / f"{FIXTURE}.sql.gz").read_bytes(), "/root/old.sql.gz")
    code, _results, text = playbook("import", "import_project=oldlab", "import_dump=/root/old.sql.gz")
    assert code == 0, text
    run = site(listed(lab, "zeo"))
    assert run.ok, run.failure
    before = dump_of("oldlab")
    extra = json.dumps(listed(lab, "zeo"))
    code, results, text = playbook("convert", "convert_project=oldlab", "--check", extra)
    assert code == 0 and not any(result.get("changed") for result in results.values()), text
    assert convert("convert_project=oldlab", extra) == COPIED
    return before


def test_from_relstorage_to_zeo(on_zeo, peat, dump_of, leftovers):
    answer = peat("dump", "oldlab", "zeo")
    assert answer["ok"], answer
    assert {key: answer[key] for key in ("records", "log")} == expected()
    assert dump_of("oldlab") == on_zeo, "the source is not as it was"
    assert leftovers() == CLEAN


def test_nothing_is_left_of_it_for_site(on_zeo, lab, site):
    assert site(listed(lab, "zeo"), check=True).changed == []


def test_a_storage_with_objects_is_not_overwritten(on_zeo, lab, server, leftovers):
    before = server.check_output("sha256sum %s", STORED)
    text = refusal("convert_project=oldlab", json.dumps(listed(lab, "zeo")))
    # ZEO counts those that were deleted as well.
    assert "is not empty: it has 1600 objects in 13 transactions" in text
    assert server.check_output("sha256sum %s", STORED) == before
    assert leftovers() == CLEAN


# What follows leaves the list as the inventory has it: oldlab is in the database again, its storage no longer served.


@pytest.fixture(scope="module")
def back(on_zeo, site):
    site.to_restore = True
    site.restore()


def test_a_served_source_is_refused_and_a_database_with_objects_not_overwritten(back, on_zeo, dump_of):
    served, filled = at_once(
        refusal,
        ("convert_project=another", "convert_from=/var/lib/zeo/my_sandbox/Data.fs"),
        ("convert_project=oldlab",),
    )
    assert "is served as my_sandbox" in served
    assert "is not empty: it has objects" in filled
    assert dump_of("oldlab") == on_zeo


def test_a_failed_copy_leaves_the_project_empty_and_nothing_else(back, server, dump_of, leftovers):
    server.check_output("mkdir -p /root/broken && head --bytes=100000 %s > /root/broken/Data.fs", STORED)
    # FileStorage reads what is whole; this transaction is not.
    server.check_output("printf 'x%.0s' $(seq 100) | dd of=/root/broken/Data.fs bs=1 seek=4 conv=notrunc status=none")
    before = dump_of("another")
    text = refusal("convert_project=another", "convert_from=/root/broken/Data.fs")
    assert "The project has none of the data, the source is untouched" in text
    assert dump_of("another") == before
    assert leftovers() == CLEAN


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
    assert convert("convert_project=another", f"convert_from={STORED}") == COPIED
    answer = peat("dump", "another", "relstorage")
    assert answer["ok"], answer
    assert {key: answer[key] for key in ("records", "log")} == expected()
    assert server.check_output("sha256sum %s", STORED) == before, "the source is not as it was"
    assert leftovers() == CLEAN


def test_work_goes_on_in_it(back, peat, unused):
    """New objects get ids of their own, those of the old ones are not given out again."""
    assert peat("add", "another", "relstorage", prefix=unused, records=20)["ok"]
    answer = peat("dump", "another", "relstorage")
    assert {name: answer["records"][name] for name in expected()["records"]} == expected()["records"]
    assert len(peat("read", "another", "relstorage", prefix=unused)["names"]) == 20
