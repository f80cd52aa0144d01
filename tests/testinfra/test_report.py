"""The report against the server: its figures are what the databases hold, and reading them changes nothing."""

from __future__ import annotations

import datetime
import html
import json
import pathlib
import re
import ssl
import tempfile

import pytest
from conftest import CLIENTS, put, run_ansible
from peat import report, status

#: Doubles the rows of a table whose first column numbers them.
DOUBLE = "INSERT INTO {table} SELECT zoid + (SELECT COUNT(*) FROM {table} AS counted), {rest} FROM {table}"


def text(page: str) -> str:
    return html.unescape(re.sub(r"(?s)<style>.*?</style>|<[^>]*>", " ", page))


@pytest.fixture(scope="module")
def write_report(tmp_path_factory):
    """write_report(variables, *options): of a run of playbooks/report.yml the code, {task: result}, and the page."""
    path = tmp_path_factory.mktemp("report") / "report.html"

    def run(variables: dict | None = None, *options: str) -> tuple[int, dict, str]:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as extra:
            json.dump({"peat_report_file": str(path), **(variables or {})}, extra)
            extra.flush()
            code, done, output = run_ansible(
                "ansible-playbook", "--diff", f"--extra-vars=@{extra.name}", *options, "playbooks/report.yml"
            )
        assert done and path.exists(), output
        results = {
            task["task"]["name"]: task["hosts"]["server"]
            for play in done["plays"]
            for task in play["tasks"]
            if "server" in task["hosts"]
        }
        return code, results, path.read_text()

    return run


def figures(results: dict, project: str) -> dict:
    projects = results["Report | What is there"]["server"]["projects"]
    return next(entry["database"] for entry in projects if entry["name"] == project)


@pytest.fixture(scope="module")
def commits(run_client, sql) -> datetime.datetime:
    """One commit to each kind of project; when the first began."""
    began = datetime.datetime.now(datetime.timezone.utc)
    assert run_client("peat2", "peat2", "add", "farrell", "hewlsample", prefix="report", records=20, commits=4)["ok"]
    for project in ("modernhp", "modernhf"):
        options = {"history_free": True} if project == "modernhf" else {}
        assert run_client("modern", "relstorage4", "add", "farrell", project, prefix="report", **options)["ok"]
    # The server works out again what a table takes on disk when it likes, but not soon after this.
    tables = "table_schema IN ('hewlsample', 'modernhp', 'modernhf') AND table_type = 'BASE TABLE'"
    for (table,) in sql(f"SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables WHERE {tables}"):
        sql(f"ANALYZE TABLE {table}")
    return began


@pytest.fixture(scope="module")
def first(commits, write_report):
    return write_report()


@pytest.mark.parametrize("project", ["hewlsample", "modernhp", "modernhf"])
def test_figures_are_what_the_database_holds(first, commits, sql, project):
    code, results, page = first
    assert code == 0, results
    found = figures(results, project)
    objects = "object_state" if project == "modernhf" else "current_object"
    ((count, total, last),) = sql(
        f"SELECT (SELECT COUNT(*) FROM {project}.{objects}), SUM(state_size), MAX(tid) FROM {project}.object_state"
    )
    assert found["objects"] == {"value": int(count), "exact": True}
    assert found["data"] == {"value": int(total), "exact": True}
    assert found["disk"] > int(total)
    assert found["commit"]["tid"] == int(last)
    when = datetime.datetime.strptime(found["commit"]["time"] + " +0000", "%Y-%m-%d %H:%M %z")
    now = datetime.datetime.now(datetime.timezone.utc)
    assert commits - datetime.timedelta(minutes=2) < when < now + datetime.timedelta(minutes=1)
    assert found["commit"]["time"] in page


def test_who_committed_last_is_named(first):
    """PEAT gives every commit its user's name."""
    _code, results, page = first
    assert figures(results, "hewlsample")["commit"]["user"] == "farrell"
    assert f"{figures(results, 'hewlsample')['commit']['time']}, farrell" in page


def test_a_project_nobody_has_opened_has_no_commit(first, sql):
    assert sql("SELECT COUNT(*) FROM my1sandbox.transaction WHERE tid > 0") == [["0"]]
    assert figures(first[1], "my1sandbox")["commit"] is None


def test_the_server_is_described_as_it_is(first, server, lab):
    described = first[1]["Report | What is there"]["server"]
    program = "mariadbd" if lab.server["flavour"] == "mariadb" else "mysqld"
    version = re.search(r"\d+\.\d+\.\d+", server.check_output(f"{program} --no-defaults --version"))[0]
    assert described["software"] == f"{'MariaDB' if program == 'mariadbd' else 'MySQL'} {version}"
    assert (described["announced"] is None) == (program == "mysqld")
    assert described["system"] in server.check_output("cat /etc/os-release")
    assert (described["address"], described["port"]) == (lab.server["address"], lab.server["port"])


@pytest.mark.parametrize("family", ["address", "address6"])
def test_when_the_certificate_that_clients_are_shown_ends_is_on_the_page(first, modern, lab, family):
    program, authority = (f"/usr/local/lib/peat-tests/{name}" for name in ("tls_probe.py", "report-ca.crt"))
    put(modern, (CLIENTS / "tls_probe.py").read_bytes(), program)
    put(modern, pathlib.Path(lab.server["sheets"], "ca.crt").read_bytes(), authority)
    command = ("python3 %s %s %s --ca=%s", program, lab.server[family], str(lab.server["port"]), authority)
    shown = json.loads(modern.check_output(*command))
    assert shown["ok"], shown
    ends = datetime.datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["not_after"]), datetime.timezone.utc)
    left = (ends - datetime.datetime.now(datetime.timezone.utc)).days
    rows = re.findall(r"(?s)<tr>.*?</tr>", first[2].partition("<h3>Certificates</h3>")[2])
    assert ["server", f"{ends:%Y-%m-%d}", str(left)] in [text(row).split() for row in rows]


def test_everybody_is_on_the_page_and_no_password(first, lab):
    page = first[2]
    for person in lab.server["people"]:
        assert f"<span>{person['name']}</span>" in page
        assert lab.password(person["name"]) not in page
    for project in lab.server["projects"]:
        assert f'<th scope="row">{project["name"]}</th>' in page
    assert "Nothing on the server is beside the list" in page and "Nothing is pending" in page


def test_writing_it_again_changes_nothing_but_its_time(first, write_report):
    code, results, page = write_report()
    assert code == 0
    assert [task for task, result in results.items() if result.get("changed")] == []
    assert page == report.page([results["Report | What is there"]["server"]], [], report.as_of(page))


@pytest.fixture(scope="module")
def beside(write_report, lab, sql, tmp_path_factory):
    """A run with an account nobody listed, a person and a project that are not there yet, and a host that is off."""
    off = tmp_path_factory.mktemp("off") / "more.yml"
    off.write_text(json.dumps({"mysql": {"hosts": {"off": {"ansible_host": "127.0.0.1", "ansible_port": 1}}}}))
    lists = lab.lists()
    lists["peat_people"].append({"name": "newcomer", "from": ["campus"]})
    lists["peat_projects"].append({"name": "planned", "clients": "peat2", "write": ["newcomer"]})
    state = "SELECT User, Host FROM mysql.user ORDER BY 1, 2"
    sql("CREATE USER 'stray'@'%' IDENTIFIED BY 'a password of no use'")
    sql("GRANT SELECT ON hewlsample.* TO 'stray'@'%'")
    try:
        before = sql(state)
        code, _results, page = write_report(lists, f"--inventory={off}")
        assert sql(state) == before
    finally:
        sql("DROP USER 'stray'@'%'")
    return code, page


def test_findings_and_pending_changes_are_told_and_left_alone(beside, sql):
    page = beside[1]
    assert sql("SHOW DATABASES LIKE 'planned'") == []
    findings, pending, *_off = (text(part) for part in re.findall(r'(?s)<div class="notice">.*?</div>', page))
    assert "'stray'@'%'" in findings
    assert "make the tables of planned" in pending and "'newcomer'@" in pending
    assert "not created yet" in page


def test_a_server_that_cannot_be_read_is_named(beside):
    code, page = beside
    assert code != 0
    links = re.findall(r'<li><a href="#(.*?)">(.*?)</a>: (.*?)</li>', page)
    assert [(name, "not read" in rest) for _target, name, rest in links] == [("server", False), ("off", True)]


# Databases that no list makes


@pytest.fixture(scope="module")
def unusual(sql):
    """A database of RelStorage 1.4 and one beyond the limits of what is counted, with nothing else in it."""
    for name in ("report_old", "report_large"):
        sql(f"DROP DATABASE IF EXISTS {name}")
        sql(f"CREATE DATABASE {name}")
    sql(
        "CREATE TABLE report_old.object_state (zoid BIGINT, tid BIGINT, state LONGBLOB, PRIMARY KEY (zoid));"
        "INSERT INTO report_old.object_state VALUES (0, 285000000000000000, 'x'), (1, 285000000000000001, 'x')"
    )
    statements = [
        "CREATE TABLE report_large.object_state (zoid BIGINT PRIMARY KEY, tid BIGINT, state_size BIGINT) ENGINE=MyISAM",
        "CREATE TABLE report_large.current_object (zoid BIGINT PRIMARY KEY, tid BIGINT) ENGINE=MyISAM",
        "INSERT INTO report_large.object_state VALUES (0, 285000000000000000, 10)",
        "INSERT INTO report_large.current_object VALUES (0, 285000000000000000)",
    ]
    for table, limit, rest in (
        ("report_large.object_state", status.ADDED_STATES, "tid, state_size"),
        ("report_large.current_object", status.COUNTED_OBJECTS, "tid"),
    ):
        statements += [DOUBLE.format(table=table, rest=rest)] * limit.bit_length()
    sql(";".join(statements))
    yield
    for name in ("report_old", "report_large"):
        sql(f"DROP DATABASE {name}")


@pytest.fixture(scope="module")
def unusual_figures(unusual) -> dict:
    arguments = {
        "name": "server",
        "address": "server",
        "port": 1,
        "projects": [{"name": name, "clients": "peat2"} for name in ("report_old", "report_large", "report_none")],
    }
    code, done, output = run_ansible("ansible", "mysql", "-m", "peat_status", f"--args={json.dumps(arguments)}")
    assert code == 0, output
    described = done["plays"][0]["tasks"][0]["hosts"]["server"]["server"]
    return {project["name"]: project["database"] for project in described["projects"]}


def test_a_database_of_relstorage_14_has_no_sizes_of_states(unusual_figures):
    old = unusual_figures["report_old"]
    assert (old["objects"], old["data"]) == ({"value": 2, "exact": True}, None)
    assert old["commit"]["tid"] == 285000000000000001


def test_large_tables_are_not_counted_to_the_end(unusual_figures):
    large = unusual_figures["report_large"]
    assert large["objects"] == {"value": status.COUNTED_OBJECTS, "exact": False}
    assert large["data"]["exact"] is False
    assert large["data"]["value"] >= status.ADDED_STATES * 10


def test_a_database_that_is_not_there_has_no_figures(unusual_figures):
    assert unusual_figures["report_none"] is None
