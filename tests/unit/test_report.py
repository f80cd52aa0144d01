"""The report: what is said of a server, how it becomes a page, and when a page has changed."""

import datetime
import html
import json
import os
import pathlib
import random
import re
import subprocess
import sys

import pytest
import transaction
import ZODB
from peat import markup, report, status, zeo_status
from peat.lab import load
from persistent.timestamp import TimeStamp
from run_module import ROOT, run_module
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage

NETWORKS = [
    {"name": "campus", "addresses": ["192.0.2.0/24", "2001:db8:1::/48"]},
    {"name": "cluster", "addresses": ["198.51.100.16/28"]},
]
PEOPLE = [
    {"name": "farrell", "from": ["campus", "203.0.113.7"], "password": "the-Secret-of-farrell"},
    {"name": "nielsen", "from": ["campus"]},
    {"name": "guest", "from": ["campus", "cluster"]},
    {"name": "pipeline", "from": ["cluster"], "tls": "required"},
]
PROJECTS = [
    {
        "name": "hewlsample",
        "clients": "peat2",
        "write": ["farrell", "nielsen"],
        "read": ["guest", {"person": "nielsen", "from": ["192.0.2.9"]}],
    },
    {"name": "screening", "clients": "relstorage4", "keep_history": False, "write": ["pipeline"]},
    {"name": "thesis", "clients": "peat2", "state": "frozen", "write": ["nielsen"]},
    {"name": "planned", "clients": "peat2"},
    {"name": "going", "clients": "peat2", "state": "absent"},
    {"name": "gone", "clients": "peat2", "state": "absent"},
]
FIGURES = {
    "disk": 1_234_567,
    "objects": {"value": 1_000_000, "exact": False},
    "data": {"value": 20_000_000_000, "exact": False},
    "commit": {"tid": 1, "time": "2026-11-20 09:30", "user": "farrell"},
}
EXACT = {"value": 31, "exact": True}
EMPTY = {"disk": 246_000, "objects": {"value": 0, "exact": True}, "data": None, "commit": None}
FOUND = {
    "software": "MariaDB 10.11.18",
    "announced": "5.5.5-10.11.18-MariaDB",
    "system": "Debian GNU/Linux 12 (bookworm)",
    "databases": {
        "hewlsample": {**FIGURES, "objects": EXACT},
        "screening": FIGURES,
        "thesis": EMPTY,
        "going": EMPTY,
    },
}
ABOUT = {"name": "peat.example.org", "address": "192.0.2.1", "port": 8080, "findings": [], "pending": []}
TIME = "2026-11-23 02:00"


def server(people=PEOPLE, projects=PROJECTS, networks=NETWORKS, found=FOUND, **about):
    return report.server({**ABOUT, **about}, load(networks, people, projects, True), networks, found)


def tables(page):
    """{caption: rows of texts} of a page."""
    return {
        html.unescape(re.search(r"<caption[^>]*>(.*?)</caption>", table)[1]): [
            [text(cell) for cell in re.findall(r"(?s)<t[hd][ >].*?</t[hd]>", row)]
            for row in re.findall(r"(?s)<tr>.*?</tr>", table)
        ]
        for table in re.findall(r"(?s)<table.*?</table>", page)
    }


def text(part):
    return html.unescape(re.sub(r"<[^>]*>", "", part)).strip()


# When a transaction was


def test_time_of_a_transaction_is_what_zodb_meant():
    dice = random.Random(7)
    first = datetime.datetime(2004, 2, 29, 23, 59, 59, tzinfo=datetime.timezone.utc)
    for when in (first, *(first + datetime.timedelta(seconds=dice.randrange(10**9)) for _ in range(500))):
        stamp = TimeStamp(*when.timetuple()[:5], when.second + dice.random())
        found = status.time_of(int.from_bytes(stamp.raw(), "big"))
        assert abs(found.timestamp() - stamp.timeTime()) <= 1, when


def test_version_is_the_real_one():
    assert status.real_version("5.5.5-10.11.18-MariaDB") == "10.11.18"
    assert status.real_version("11.8.6-MariaDB-0+deb13u1") == "11.8.6"
    assert status.real_version("9.7.4") == "9.7.4"


# What is said of a server


def test_access_is_grouped_and_networks_have_their_names():
    (hewlsample, *_rest) = server()["projects"]
    assert hewlsample["access"] == [
        {"level": "write", "people": ["farrell"], "from": ["campus", "203.0.113.7"]},
        {"level": "write", "people": ["nielsen"], "from": ["campus"]},
        {"level": "read", "people": ["guest"], "from": ["campus", "cluster"]},
        {"level": "read", "people": ["nielsen"], "from": ["192.0.2.9"]},
    ]


def test_part_of_a_network_is_not_called_by_its_name():
    projects = [{"name": "hewlsample", "clients": "peat2", "write": [{"person": "farrell", "from": ["192.0.2.0/24"]}]}]
    assert server(projects=projects)["projects"][0]["access"][0]["from"] == ["192.0.2.0/24"]


def test_frozen_projects_are_read_only():
    thesis = server()["projects"][2]
    assert [group["level"] for group in thesis["access"]] == ["read"]


def test_project_to_be_removed_is_there_until_its_database_is_gone():
    described = server(pending=["do this"])
    assert [project["name"] for project in described["projects"]] == [
        "hewlsample",
        "screening",
        "thesis",
        "planned",
        "going",
    ]
    assert described["pending"] == ["do this", "remove the database going once its removal is confirmed"]


def test_no_password_is_in_it():
    assert "Secret" not in json.dumps(server())


# The page


def test_matrix_has_everybody_and_every_project():
    rows = tables(report.page([server()], [], TIME))["Who reaches which project"]
    assert rows == [
        ["Project", "farrell", "nielsen", "guest", "pipeline"],
        ["hewlsample", "W", "W R", "R", ""],
        ["screening", "", "", "", "W"],
        ["thesis", "", "R", "", ""],
        ["planned", "", "", "", ""],
        ["going", "", "", "", ""],
    ]


def test_matrix_of_many_people_is_cut_into_tables_that_fit_on_paper():
    people = [{"name": f"person{number}", "from": ["campus"]} for number in range(report.ACROSS + 1)]
    projects = [{"name": "hewlsample", "clients": "peat2", "write": [person["name"] for person in people]}]
    found = tables(report.page([server(people, projects)], [], TIME))
    first = found[f"Who reaches which project, people 1 to {report.ACROSS}"]
    last = found[f"Who reaches which project, people {report.ACROSS + 1} to {report.ACROSS + 1}"]
    assert [row[1:] for row in first][1] == ["W"] * report.ACROSS
    assert last == [["Project", f"person{report.ACROSS}"], ["hewlsample", "W"]]


def test_sizes_say_whether_they_are_exact():
    rows = tables(report.page([server()], [], TIME))["Projects"]
    columns = rows[0]
    assert [dict(zip(columns, row)) for row in rows[1:4]] == [
        {
            "Project": "hewlsample",
            "Clients": "peat2",
            "History": "kept",
            "State": "open",
            "Objects": "31",
            "Object data": "about 20 GB",
            "On disk": "1.2 MB",
            "Last commit (UTC)": "2026-11-20 09:30, farrell",
        },
        {
            "Project": "screening",
            "Clients": "relstorage4",
            "History": "not kept",
            "State": "open",
            "Objects": "over 1,000,000",
            "Object data": "about 20 GB",
            "On disk": "1.2 MB",
            "Last commit (UTC)": "2026-11-20 09:30, farrell",
        },
        {
            "Project": "thesis",
            "Clients": "peat2",
            "History": "kept",
            "State": "frozen: read only",
            "Objects": "0",
            "Object data": "-",
            "On disk": "246 kB",
            "Last commit (UTC)": "never",
        },
    ]
    assert [row[columns.index("State")] for row in rows[4:]] == ["not created yet", "removal not confirmed"]


def test_people_have_their_rule_and_where_they_come_from():
    found = tables(report.page([server()], [], TIME))
    assert found["People"][1:] == [
        ["farrell", "1", "0", "TLS or none"],
        ["nielsen", "1", "1", "TLS or none"],
        ["guest", "0", "1", "TLS or none"],
        ["pipeline", "1", "0", "TLS only"],
    ]
    assert found["From where"][1:3] == [
        ["hewlsample", "write", "farrell", "campus, 203.0.113.7"],
        ["write", "nielsen", "campus"],
    ]


def test_findings_and_pending_changes_are_listed_or_said_to_be_none():
    quiet = report.page([server(projects=PROJECTS[:1])], [], TIME)
    assert "Nothing on the server is beside the list" in quiet and "Nothing is pending" in quiet
    told = text(report.page([server(findings=["'old'@'%' is foreign"], pending=["create x", "drop y"])], [], TIME))
    assert "1 finding: on the server, not in the list" in told and "'old'@'%' is foreign" in told
    assert "3 pending changes: what the next run does" in told and "create x" in told


def test_endless_lists_are_cut():
    page = text(report.page([server(findings=[f"finding-{number}" for number in range(1234)])], [], TIME))
    assert len(re.findall(r"finding-\d", page)) == report.LISTED
    assert f"and {1234 - report.LISTED:,} more" in page


def test_several_servers_are_on_one_page_and_one_that_failed_is_not_forgotten():
    page = report.page([server(), server(name="second", projects=PROJECTS[1:2])], ["third"], TIME)
    links = re.findall(r'<li><a href="#(.*?)">(.*?)</a>: (.*?)</li>', page)
    assert links == [
        ("server-0", "peat.example.org", "5 projects, 4 people, 1 pending change"),
        ("server-1", "second", "1 project, 4 people"),
        ("server-2", "third", "not read"),
    ]
    assert all(f'<section id="{target}">' in page for target, _name, _text in links)
    assert "The server could not be read" in page.split('id="server-2"')[1]
    assert len(re.findall(r' id="([^"]*)"', page)) == len(set(re.findall(r' id="([^"]*)"', page)))


def test_everything_is_escaped():
    evil = '<script>alert("\'&")</script>'
    described = server(name=evil, address=evil, findings=[evil], pending=[evil])
    for key in ("software", "announced", "system"):
        described[key] = evil
    described["people"][0]["name"] = described["projects"][0]["name"] = evil
    described["projects"][0]["access"] = [{"level": "write", "people": [evil], "from": [evil]}]
    described["projects"][0]["database"] = {**FIGURES, "commit": {"tid": 1, "time": "now", "user": evil}}
    described["networks"] = [{"name": evil, "addresses": [evil]}]
    page = report.page([described], [evil], TIME)
    assert "<script" not in page
    assert page.count(html.escape(evil)) > 20  # it is in every part of the page


def test_tables_can_be_read_out():
    page = report.page([server()], [], TIME)
    for table in re.findall(r"(?s)<table.*?</table>", page):
        assert "<caption" in table
        assert all(re.search(r'scope="(col|row|rowgroup)"', head) for head in re.findall(r"<th[ >][^>]*>?", table))
    labels = re.findall(r'<div class="scroll" role="region" tabindex="0" aria-labelledby="([^"]*)">', page)
    assert len(labels) == page.count("<table") and all(f'id="{label}"' in page for label in labels)
    assert '<html lang="en">' in page


def test_time_of_a_page_is_found_again():
    assert report.as_of(report.page([server()], [], TIME)) == TIME
    assert report.as_of("<html>") is None


def test_elements():
    assert markup.element("td", "a < b", class_="x", title=None) == '<td class="x">a &lt; b</td>\n'
    assert markup.element("div", [markup.element("b", "&"), ["c", None]], aria_label='"') == (
        '<div aria-label="&quot;">\n<b>&amp;</b>c</div>\n'
    )
    with pytest.raises(ValueError, match="neither"):
        markup.page("", note="-->")


# ZEO servers

STORED = [
    {"name": "titration", "backend": "zeo", "clients": "current", "write": ["farrell"]},
    {"name": "going", "backend": "zeo", "clients": "current", "state": "absent"},
]


@pytest.fixture
def stored(tmp_path):
    """A ZEO server's storage with two commits and a blob: its path, its last tid, and how all of it is read."""
    (tmp_path / "lib/python3.13/site-packages/ZEO-6.2.dist-info").mkdir(parents=True)
    (tmp_path / "lib/python3.13/site-packages/zeorelated-1.0.dist-info").mkdir()
    path = tmp_path / "titration/Data.fs"
    path.parent.mkdir()
    database = ZODB.DB(FileStorage(str(path), blob_dir=str(path.parent / "blobs")))
    with database.transaction() as connection:
        connection.root()["blob"] = Blob(b"x" * 100_000)
    manager = transaction.TransactionManager()
    connection = database.open(manager)
    connection.root()["more"] = 1
    manager.get().setUser("farrell", "")
    manager.commit()
    last = connection.root()._p_serial
    connection.close()
    database.close()
    storages = {"titration": str(path), "empty": str(tmp_path / "empty/Data.fs")}
    return path, last, lambda running=True: zeo_status.read(storages, running, str(tmp_path))


def test_storages_are_read_from_their_files(stored):
    path, last, read = stored
    found = read()
    assert (found["software"], found["running"], list(found["databases"])) == ("ZEO 6.2", True, ["titration"])
    figures = found["databases"]["titration"]
    assert figures["data"] == {"value": path.stat().st_size, "exact": True}
    blobs = sum(file.stat().st_size for file in path.parent.glob("blobs/**/*") if file.is_file())
    assert blobs > 100_000 and figures["disk"] == path.stat().st_size + blobs
    when = TimeStamp(last)
    assert figures["commit"] == {
        "tid": int.from_bytes(last, "big"),
        "time": f"{when.year()}-{when.month():02}-{when.day():02} {when.hour():02}:{when.minute():02}",
        "user": "farrell",
    }


@pytest.mark.parametrize("cut", [1, 8, 20])
def test_commit_that_is_being_written_is_as_old_as_the_file(stored, cut):
    path, _last, read = stored
    path.write_bytes(path.read_bytes()[:-cut])
    os.utime(path, (1_700_000_000, 1_700_000_000))
    assert read()["databases"]["titration"]["commit"] == {"tid": None, "time": "2023-11-14 22:13", "user": ""}


def test_transaction_that_may_still_be_undone_is_not_the_last_one(stored):
    path, last, read = stored
    content = bytearray(path.read_bytes())
    status = content.rindex(last + content[-8:]) + 16
    assert content[status : status + 1] == b" "
    content[status : status + 1] = b"c"
    path.write_bytes(content)
    assert read()["databases"]["titration"]["commit"]["tid"] is None


def test_length_that_is_not_its_transactions_is_not_believed(stored):
    path, _last, read = stored
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + (size - 4).to_bytes(8, "big"))  # leads to the first transaction
    assert read()["databases"]["titration"]["commit"]["tid"] is None


def test_storage_without_commits_has_none(stored):
    path, _last, read = stored
    path.write_bytes(b"FS30")
    assert read()["databases"]["titration"]["commit"] is None


def test_zeo_projects_are_in_the_tables(stored):
    found = {**stored[2](), "system": "Debian"}
    page = report.page([server(), server(projects=STORED, found=found, name="zeo", tls="certificate")], [], TIME)
    second = page.split('id="server-1"')[1]
    rows = tables(second)
    assert rows["Who reaches which project"][1] == ["titration", "W", "", "", ""]
    project = dict(zip(rows["Projects"][0], rows["Projects"][1]))
    assert (project["Clients"], project["State"], project["Objects"]) == ("current", "open", "-")
    assert project["Last commit (UTC)"].endswith(", farrell") and project["On disk"].startswith("10")
    assert {row[3] for row in rows["People"][1:]} == {"TLS and a certificate of their own only"}
    assert "ZEO 6.2" in second and "in 1 storage" in text(second) and "does not run" not in second
    none = tables(report.page([server(projects=STORED, found=found, tls="none")], [], TIME))
    assert {row[3] for row in none["People"][1:]} == {"none"}


def test_zeo_server_that_does_not_run_is_told(stored):
    found = {**stored[2](running=False), "system": ""}
    assert "does not run: nobody can connect" in report.page([server(projects=STORED, found=found)], [], TIME)


def test_storage_to_be_removed_is_pending_while_it_is_there(stored):
    found = {**stored[2](), "system": ""}
    assert server(projects=STORED, found=found)["pending"] == []
    found["databases"]["going"] = found["databases"]["titration"]
    assert server(projects=STORED, found=found)["pending"] == ["remove the storage going once its removal is confirmed"]


def test_certificates_have_their_last_day_and_the_next_to_expire_is_first():
    expiry = [
        {"name": "the authority", "path": "ca.crt", "not_after": "2036-11-01", "days_left": 3630},
        {"name": "peat.example.org", "path": "server.crt", "not_after": "2026-12-06", "days_left": 13},
    ]
    page = report.page([server(certificates=expiry)], [], TIME)
    assert tables(page)["Certificates"][1:] == [
        ["peat.example.org", "2026-12-06", "13"],
        ["the authority", "2036-11-01", "3,630"],
    ]
    assert '<td class="both">13</td>' in page and '<td class="number">3,630</td>' in page
    assert "Certificates" not in report.page([server()], [], TIME)


# The module


def run(path, servers=None, unread=(), **options):
    return run_module("peat_report", dest=str(path), servers=servers or [server()], unread=list(unread), **options)


def test_module_writes_a_private_page(tmp_path):
    path = tmp_path / "report.html"
    assert run(path)["changed"] is True
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == report.page([server()], [], report.as_of(path.read_text()))


def test_module_keeps_the_time_up_to_date_but_calls_only_the_rest_a_change(tmp_path):
    path = tmp_path / "report.html"
    path.write_text(report.page([server()], [], "2020-01-01 00:00"))
    path.chmod(0o644)
    again = run(path)
    assert (again["changed"], again["diff"]["before"]) == (False, again["diff"]["after"])
    assert report.as_of(path.read_text()) > "2026"
    assert path.stat().st_mode & 0o777 == 0o644
    assert run(path, unread=["third"])["changed"] is True
    assert "third" in path.read_text()


def test_module_in_check_mode_predicts_and_writes_nothing(tmp_path):
    path = tmp_path / "report.html"
    assert run(path, check=True)["changed"] is True
    assert not path.exists()
    before = report.page([server()], [], "2020-01-01 00:00")
    path.write_text(before)
    assert run(path, check=True)["changed"] is False
    assert run(path, unread=["third"], check=True)["changed"] is True
    assert path.read_text() == before


def test_module_does_not_overwrite_what_is_no_report(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("my page")
    assert "is no report" in run(path)["msg"]
    assert path.read_text() == "my page"


def test_module_says_where_it_cannot_write(tmp_path):
    assert "peat_report_file" in run(tmp_path / "missing" / "report.html")["msg"]


def test_page_beside_an_inventory_is_not_taken_for_one(tmp_path):
    (tmp_path / "hosts.json").write_text('{"all": {"hosts": {"only": {}}}}')
    run(tmp_path / "report.html")
    program = pathlib.Path(sys.executable).with_name("ansible-inventory")
    done = subprocess.run([program, f"--inventory={tmp_path}", "--list"], cwd=ROOT, capture_output=True, text=True)
    assert json.loads(done.stdout)["ungrouped"]["hosts"] == ["only"]
    assert done.stderr == ""
