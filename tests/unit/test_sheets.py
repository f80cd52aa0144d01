"""Connection sheets: what they say, which files change, and what a diff may show."""

import ast
import datetime
import getpass
import html
import io
import json
import os
import re
import ssl
import sys
import textwrap
import types

import pymysql
import pytest
import ZConfig
import ZODB
import ZODB.config
from peat import encryption, pki, sheets
from peat.lab import load
from run_module import run_module

NETWORKS = [{"name": "campus", "addresses": ["192.0.2.0/24", "2001:db8:1::/48"]}]
PEOPLE = [
    {"name": "farrell", "from": ["campus", "198.51.100.7"]},
    {"name": "guest", "from": ["campus"]},
    {"name": "pipeline", "from": ["203.0.113.9"], "tls": "required"},
    {"name": "idle", "from": ["campus"]},
]
PROJECTS = [
    {"name": "hewlsample", "clients": "peat2", "write": ["farrell"], "read": ["guest"]},
    {"name": "screening", "clients": "relstorage4", "keep_history": False, "write": ["pipeline", "farrell"]},
    {"name": "thesis", "clients": "peat2", "state": "frozen", "write": ["farrell"]},
    {"name": "gone", "clients": "peat2", "state": "absent", "write": ["guest"]},
]
PASSWORDS = {name: f"{name}-Secret-99" for name in ("farrell", "guest", "pipeline", "idle")}
SERVER = sheets.Server("db.example.org", 8080)


def rendered(projects=PROJECTS, passwords=PASSWORDS):
    return sheets.render_all(load(NETWORKS, PEOPLE, projects), SERVER, passwords)


def paragraph(text, title):
    """The part of a sheet about one project."""
    return text.split(f"Project {title}\n")[1].split("\nProject ")[0]


def codes(text):
    """What a sheet gives to copy, in order."""
    return [textwrap.dedent(block) for block in re.findall(r"(?m)^    .*\n(?:\n?    .*\n)*", text)]


def codes_of_page(page):
    """The same of its page."""
    return [html.unescape(block) + "\n" for block in re.findall(r"(?s)<pre[^>]*>(.*?)</pre>", page)]


def words(sheet):
    """A sheet in one line, however it is wrapped; without markup, if it is a page."""
    return " ".join(html.unescape(re.sub(r"(?s)<style>.*</style>|<[^>]*>", " ", sheet)).split())


def program(text, title):
    """The Python of a sheet for one project."""
    return codes(paragraph(text, title))[0]


def test_a_password_that_is_kept_is_not_promised_anew():
    people = [{**PEOPLE[0], "password_hash": "*" + 40 * "A"}, *PEOPLE[1:]]
    sheet = sheets.render_all(load(NETWORKS, people, PROJECTS), SERVER, {**PASSWORDS, "farrell": None})["farrell.txt"]
    assert re.search(r"Password +\(the one you have had: nobody else knows it\)\n", sheet)


def test_one_sheet_for_each_person():
    assert set(rendered()) == {
        f"{name}{suffix}" for name in ("farrell", "guest", "pipeline", "idle") for suffix in (".txt", ".html")
    }


def test_sheet_begins_with_marker_server_and_login():
    lines = rendered()["guest.txt"].splitlines()
    assert lines[0] == sheets.MARKER
    for line in ("Server     db.example.org", "Port       8080", "User name  guest", "Password   guest-Secret-99"):
        assert line in lines


def test_password_is_there_once_and_nobody_elses():
    for name, text in rendered().items():
        assert re.findall(r"\w+-Secret-99", text) == [PASSWORDS[name.partition(".")[0]]]


def test_peat_project_gives_the_fields_of_peats_dialog():
    # PEATDB 2.3 asks for these six; with any backend but `mysql` it would speak ZEO to the server.
    fields = dict(re.findall(r"(?m)^  (\w+) +(.*)$", paragraph(rendered()["guest.txt"], "hewlsample")))
    assert list(fields) == ["username", "password", "server", "port", "project", "backend"]
    assert fields["username"] == "guest"
    assert (fields["server"], fields["port"]) == ("db.example.org", "8080")
    assert fields["project"] == "hewlsample"
    assert fields["backend"].split()[0] == "mysql"


def test_modern_project_gives_a_program_that_compiles():
    source = program(rendered()["farrell.txt"], "screening")
    calls = {
        node.func.id: node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and hasattr(node.func, "id")
    }
    options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in calls["Options"].keywords}
    assert options == {"driver": "PyMySQL", "create_schema": False, "keep_history": False}
    adapter = {keyword.arg: keyword.value for keyword in calls["MySQLAdapter"].keywords}
    assert ast.literal_eval(adapter["host"]) == "db.example.org"
    assert ast.literal_eval(adapter["port"]) == 8080
    assert ast.literal_eval(adapter["db"]) == "screening"
    assert ast.literal_eval(adapter["user"]) == "farrell"
    assert "Secret" not in source


# RelStorage hides a password from its log only if it is called passwd, a name PyMySQL would like to change.
@pytest.mark.filterwarnings("ignore:'(db|passwd)' is deprecated:DeprecationWarning")
def test_program_gets_as_far_as_the_network_with_the_real_relstorage(monkeypatch):
    server = sheets.Server("127.0.0.1", 1)  # nothing listens there
    text = sheets.render_all(load(NETWORKS, PEOPLE, PROJECTS), server, PASSWORDS)["farrell.txt"]
    monkeypatch.setattr(getpass, "getpass", lambda: "x")
    with pytest.raises(pymysql.err.OperationalError, match="Can't connect to MySQL server"):
        exec(program(text, "screening"))


def test_levels_and_addresses():
    projects = [{**PROJECTS[0], "read": [{"person": "farrell", "from": ["192.0.2.16/28"]}]}]
    text = paragraph(rendered(projects)["farrell.txt"], "hewlsample")
    assert "write      from 192.0.2.0/24, 2001:db8:1::/48, 198.51.100.7\n" in text
    assert "read       from 192.0.2.16/28\n" in text
    assert "the narrower one counts" in text
    assert "the narrower one counts" not in rendered()["farrell.txt"]


def test_configuration_file_of_a_modern_project_says_the_same_to_the_real_relstorage(monkeypatch):
    # A project may have a dollar sign in its name, which means a variable to ZConfig.
    dollar = {"name": "a$b-c", "clients": "relstorage4", "write": ["farrell"]}
    monkeypatch.setenv("PEAT_PASSWORD", "pass $word $(no)")
    for project in (dollar, PROJECTS[1]):
        text = codes(paragraph(rendered([project])["farrell.txt"], project["name"]))[1]
        schema = ZODB.config.getDbSchema()
        config = ZConfig.loadConfigFile(schema, io.StringIO(text))[0].database[0].config.storage.config
        assert (config.create_schema, config.keep_history) == (False, project.get("keep_history", True))
        mysql = config.adapter.config
        assert (mysql.driver, mysql.host, mysql.port) == ("PyMySQL", "db.example.org", 8080)
        assert (mysql.user, mysql.passwd, mysql.db) == ("farrell", "pass $word $(no)", project["name"])


def test_readers_are_told_what_a_refused_commit_looks_like():
    denied = """OperationalError: (1044, "Access denied for user 'guest'@'ADDRESS' to database 'hewlsample'")\n"""
    assert codes(paragraph(rendered()["guest.txt"], "hewlsample")) == [denied]
    assert "1044" not in rendered()["pipeline.txt"]
    reader = rendered([{"name": "modern", "clients": "relstorage4", "read": ["guest"]}])["guest.txt"]
    denied = denied.replace("hewlsample", "modern")
    assert codes(paragraph(reader, "modern"))[2] == f"pymysql.err.{denied}MySQLdb.{denied}"


def test_frozen_project_is_read_only_and_says_so():
    text = paragraph(rendered()["farrell.txt"], "thesis")
    assert "read       from 192.0.2.0/24" in text and "write " not in text
    assert "frozen" in text


def test_people_without_access_get_a_sheet_that_says_so():
    assert "No project is open to you" in rendered()["idle.txt"]
    assert "gone" not in rendered()["guest.txt"]


def test_who_comes_through_the_forwarder_enters_its_own_end_and_gets_its_configuration():
    people = [{**person, "tls": "forwarder"} if person["name"] == "guest" else person for person in PEOPLE]
    made = sheets.render_all(load(NETWORKS, people, PROJECTS), SERVER, PASSWORDS)
    for text in (made["guest.txt"], made["guest.html"]):
        assert "server 127.0.0.1 port 8081" in words(text)
        assert "cannot ask for TLS" not in words(text)
    unix = encryption.forwarder("db.example.org", 8081)
    assert codes(made["guest.txt"])[-2:] == [unix, encryption.forwarder("db.example.org", 8081, "windows")]
    assert codes_of_page(made["guest.html"])[-2:] == codes(made["guest.txt"])[-2:]
    assert "server db.example.org port 8080" in words(made["farrell.txt"])


def test_who_needs_a_certificate_is_told_where_it_lies():
    people = [{**person, "tls": "certificate"} if person["name"] == "pipeline" else person for person in PEOPLE]
    made = words(sheets.render_all(load(NETWORKS, people, PROJECTS), SERVER, PASSWORDS)["pipeline.txt"])
    assert "pipeline.client.crt and pipeline.client.key" in made and "over TLS only" in made
    assert "client.crt" not in words(rendered()["pipeline.txt"])


def test_the_drivers_arguments_are_given_to_copy():
    people = [{**person, "tls": "certificate"} if person["name"] == "pipeline" else person for person in PEOPLE]
    sheet = sheets.render_all(load(NETWORKS, people, PROJECTS), SERVER, PASSWORDS)["pipeline.txt"]
    files = ("ca.crt", "pipeline.client.crt", "pipeline.client.key")
    lines = re.findall(r"(?m)^    (ssl=.*)$", sheet)
    assert [eval(f"dict({line})") for line in lines] == [
        encryption.driver_arguments(driver, *files) for driver in encryption.DRIVERS
    ]
    assert encryption.option_file(*files).rstrip() in "\n".join(codes(sheet))


def test_advice_on_encryption_is_for_the_clients_and_the_rule_of_the_person():
    advice = {name: words(text).partition("Encryption")[2] for name, text in rendered().items()}
    peat, modern, rule = "PEAT 2.3 cannot ask for TLS", "ssl_mode='VERIFY_IDENTITY'", "over TLS only"
    for form in sheets.SUFFIXES:
        said = {
            person: [text in advice[person + form] for text in (peat, modern, rule)]
            for person in ("farrell", "guest", "pipeline")
        }
        assert said == {
            "farrell": [True, True, False],
            "guest": [True, False, False],
            "pipeline": [False, True, True],
        }
        assert advice["idle" + form] == ""


def test_anywhere_is_said_in_words():
    people = [{"name": "farrell", "from": ["%"]}]
    lab = load([], people, [{"name": "hewlsample", "clients": "peat2", "write": ["farrell"]}], True)
    assert "write      from anywhere\n" in sheets.render_all(lab, SERVER, PASSWORDS)["farrell.txt"]


# ZEO

STORED = [
    {"name": "titration", "backend": "zeo", "clients": "current", "write": ["farrell", "idle"]},
    {"name": "assay", "backend": "zeo", "clients": "peat2", "write": ["farrell", "guest"]},
]


def of_zeo(person, projects, **options):
    """Somebody's sheet in a lab with these projects; its page has to say the same."""
    server = sheets.Server("db.example.org", 8080, zeo_port=8091, **options)
    made = sheets.render_all(load(NETWORKS, PEOPLE, projects), server, PASSWORDS)
    text = made[f"{person}.txt"]
    assert codes_of_page(made[f"{person}.html"]) == codes(text)
    return text


def test_peat_project_in_a_zeo_storage_has_that_backend_and_its_port():
    text = of_zeo("guest", STORED)
    fields = dict(re.findall(r"(?m)^  (\w+) +(.*)$", paragraph(text, "assay")))
    assert list(fields) == ["username", "password", "server", "port", "project", "backend"]
    assert (fields["server"], fields["port"], fields["project"]) == ("db.example.org", "8091", "assay")
    assert fields["backend"].split()[0] == "zeo"
    assert "Port       8091\n" in text and "Password   guest-Secret-99\n" in text
    assert "Files can be attached" in text and "ZEO encrypts nothing between PEAT" in words(text)
    assert "cannot ask for TLS" not in words(text)


@pytest.fixture
def connect(monkeypatch, tmp_path):
    """connect(source): run a sheet's program up to where it would connect; the arguments of ClientStorage."""
    calls = []

    def client_storage(*arguments, **options):
        calls.append((arguments, options))
        return "storage"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ZEO", types.ModuleType("ZEO"))
    module = types.ModuleType("ZEO.ClientStorage")
    module.ClientStorage = client_storage
    monkeypatch.setitem(sys.modules, "ZEO.ClientStorage", module)
    monkeypatch.setattr(ZODB, "DB", lambda storage: storage)

    def run(source):
        names = {}
        exec(source, names)
        assert names["db"] == "storage"
        return calls.pop()

    return run


def test_program_of_a_zeo_project_connects_to_its_storage(connect):
    arguments, options = connect(program(of_zeo("idle", STORED), "titration"))
    assert arguments == (("db.example.org", 8091),)
    assert options == {"storage": "titration", "blob_dir": "blobs"}


def test_program_of_a_frozen_zeo_project_asks_to_read_only(connect):
    text = of_zeo("idle", [{**STORED[0], "state": "frozen"}])
    _arguments, options = connect(program(text, "titration"))
    assert options == {"storage": "titration", "blob_dir": "blobs", "read_only": True}
    assert "everybody reads, nobody writes" in words(text) and "ReadOnlyError" in words(text)


def test_program_of_a_zeo_project_with_tls_takes_the_files_beside_the_sheet(connect, tmp_path):
    authority = pki.new_authority("Lab", pki.new_key(), datetime.datetime.now(datetime.timezone.utc), 10)
    own = pki.issue(pki.Request(pki.CLIENT, "idle"), authority, datetime.datetime.now(datetime.timezone.utc), 10)
    (tmp_path / "ca.crt").write_bytes(pki.certificate_text(authority.certificate))
    (tmp_path / "idle.client.crt").write_bytes(pki.certificate_text(own.certificate))
    (tmp_path / "idle.client.key").write_bytes(pki.key_text(own.key))
    text = of_zeo("idle", STORED, zeo_tls=True)
    arguments, options = connect(program(text, "titration"))
    assert arguments == (("db.example.org", 8091),)
    context = options.pop("ssl")
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert [dict(*entry["subject"])["commonName"] for entry in context.get_ca_certs()] == ["Lab"]
    assert options == {"storage": "titration", "blob_dir": "blobs", "ssl_server_hostname": "db.example.org"}
    assert "idle.client.crt" in words(text).partition("Encryption of ZEO")[2]
    assert "client.crt" not in of_zeo("idle", STORED) and "Nothing is encrypted" in of_zeo("idle", STORED)


@pytest.mark.parametrize("tls", [False, True])
def test_who_is_asked_for_no_password_has_none_on_the_sheet(tls):
    text = of_zeo("idle", STORED, zeo_tls=tls)
    assert "Password" not in text and "Secret" not in text
    assert "User name  idle\n" in text and "Port       8091\n" in text


def test_both_backends_are_on_one_sheet():
    text = of_zeo("farrell", [*PROJECTS, *STORED], zeo_tls=True)
    assert "Server     db.example.org\n" in text and "Port       8080 or 8091\n" in text
    assert "Password   farrell-Secret-99\n" in text
    backends = {
        name: re.search(r"(?m)^  port +(\d+)\n  project +\S+\n  backend +(\w+)", paragraph(text, name)).groups()
        for name in ("hewlsample", "assay")
    }
    assert backends == {"hewlsample": ("8080", "mysql"), "assay": ("8091", "zeo")}
    assert "port=8080" in program(text, "screening") and "8091" in program(text, "titration")
    encrypted, of_storages = words(text).partition("Encryption")[2].split("Encryption of ZEO")
    assert "PEAT 2.3 cannot ask for TLS" in encrypted and "farrell.client.crt" in of_storages


def test_forwarder_is_for_the_database_server_only():
    people = [{**person, "tls": "forwarder"} if person["name"] == "guest" else person for person in PEOPLE]
    lab = load(NETWORKS, people, [PROJECTS[0], STORED[1]])
    text = sheets.render_all(lab, sheets.Server("db.example.org", 8080), PASSWORDS)["guest.txt"]
    assert "Server     127.0.0.1 or db.example.org\n" in text and "Port       8081 or 8090\n" in text


# The page


def test_page_says_what_the_text_says():
    sheets_ = rendered()
    for person in PASSWORDS:
        text, page = sheets_[person + ".txt"], sheets_[person + ".html"]
        assert codes_of_page(page) == codes(text)
        unruled = re.sub(r"(?m)^-+$", "", text.split("\n", 2)[2])
        assert " ".join(unruled.split()) in words(page)


def test_page_escapes_whatever_comes_into_it():
    password = """<script>"&amp;'</script>"""
    page = rendered(passwords={**PASSWORDS, "guest": password})["guest.html"]
    assert "&lt;script&gt;&quot;&amp;amp;&#x27;&lt;/script&gt;" in page
    assert "<script" not in page


def test_page_needs_nothing_from_elsewhere():
    for name, page in rendered().items():
        if name.endswith(".html"):
            assert not re.search(r"(?i)<(script|link|img|iframe)|\b(src|href)=|style=", page)
            assert not re.search(r"url|@import", page[page.index("<style>") : page.index("</style>")])
            assert "default-src 'none'" in html.unescape(page)


# What changes


def test_plan_writes_what_differs_and_removes_sheets_of_people_who_left():
    wanted = rendered()
    existing = {
        **wanted,
        "guest.txt": wanted["guest.txt"] + "edited\n",
        "gone.txt": sheets.MARKER + "\nx\n",
        "gone.html": wanted["guest.html"],
        "notes.txt": "mine\n",
        "notes.html": "<!DOCTYPE html>\n<p>mine",
    }
    plan = sheets.plan(existing, wanted)
    assert plan.write == {"guest.txt": (existing["guest.txt"], wanted["guest.txt"])}
    assert plan.remove == {name: existing[name] for name in ("gone.txt", "gone.html")}


def test_plan_of_what_is_there_is_empty():
    plan = sheets.plan(rendered(), rendered())
    assert (plan.write, plan.remove, plan.diffs("/sheets")) == ({}, {}, [])


def test_file_that_is_no_sheet_is_not_overwritten():
    with pytest.raises(sheets.SheetError, match=r"guest\.txt is no connection sheet.*move the file away"):
        sheets.plan({"guest.txt": "my notes\n"}, rendered())


def test_diff_shows_everything_but_passwords():
    wanted = rendered()
    changed = {**PASSWORDS, "guest": "another-Secret-99"}
    plan = sheets.plan({"guest.txt": rendered(passwords=changed)["guest.txt"], "left.txt": wanted["idle.txt"]}, wanted)
    diffs = {diff["after_header"]: diff for diff in plan.diffs("/sheets")}
    assert "Secret" not in json.dumps(diffs)
    assert "Password   (not shown)" in diffs["/sheets/guest.txt"]["before"]
    assert "Password   (changed, not shown)" in diffs["/sheets/guest.txt"]["after"]
    assert "Password   (not shown)" in diffs["/sheets/farrell.txt"]["after"]
    assert "Project hewlsample" in diffs["/sheets/farrell.txt"]["after"]
    assert diffs["/sheets/left.txt"]["after"] == "" != diffs["/sheets/left.txt"]["before"]
    assert diffs["/sheets/farrell.html"]["after"] == "the page of farrell.txt\n"


def test_diff_of_a_page_shows_that_it_differs():
    wanted = rendered()
    edited = {**wanted, "guest.html": wanted["guest.html"].replace("guest-Secret-99", "other-Secret-99")}
    (diff,) = sheets.plan(edited, wanted).diffs("/sheets")
    assert "Secret" not in json.dumps(diff)
    assert diff["before"] != diff["after"]


# The module


def run(directory, people=PEOPLE, passwords=PASSWORDS, projects=PROJECTS, **options):
    return run_module(
        "peat_sheets",
        dest=str(directory),
        address="db.example.org",
        port=8080,
        networks=NETWORKS,
        people=people,
        projects=projects,
        passwords=passwords,
        **options,
    )


def contents(directory):
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_module_writes_private_files_once(tmp_path):
    directory = tmp_path / "sheets" / "server"
    assert run(directory)["written"] == sorted(rendered())
    assert contents(directory) == rendered()
    assert os.stat(directory).st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    again = run(directory)
    assert (again["changed"], again["diff"]) == (False, [])


def test_module_in_check_mode_predicts_and_writes_nothing(tmp_path):
    directory = tmp_path / "sheets"
    predicted = run(directory, check=True)
    assert not directory.exists()
    done = run(directory)
    for result in (predicted, done):
        del result["invocation"]
    assert predicted == done


def test_module_takes_passwords_that_are_not_generated_yet(tmp_path):
    result = run(tmp_path, passwords={**PASSWORDS, "guest": None}, check=True)
    assert "guest.txt" in result["written"]


def test_module_result_has_no_password(tmp_path):
    first = run(tmp_path)
    people = [{**person, "password": "given-Secret-98"} for person in PEOPLE]
    second = run(tmp_path, people=people, passwords=dict.fromkeys(PASSWORDS, "given-Secret-98"))
    assert second["changed"] is True
    assert "Secret" not in json.dumps([first, second])
    assert "given-Secret-98" in (tmp_path / "guest.txt").read_text()


def test_module_removes_the_sheet_of_who_left_and_leaves_other_files(tmp_path):
    run(tmp_path)
    (tmp_path / "notes.txt").write_text("mine\n")
    (tmp_path / "guest.pdf").write_text("mine\n")
    projects = [{**PROJECTS[0], "read": []}, *PROJECTS[1:3]]
    people = [person for person in PEOPLE if person["name"] != "guest"]
    result = run(tmp_path, people=people, projects=projects)
    assert (result["removed"], result["written"]) == (["guest.html", "guest.txt"], [])
    left = {name for name in rendered() if not name.startswith("guest")}
    assert set(contents(tmp_path)) == {*left, "guest.pdf", "notes.txt"}


def test_module_closes_a_sheet_that_others_can_read(tmp_path):
    run(tmp_path)
    for name in ("guest.txt", "guest.html"):
        (tmp_path / name).chmod(0o644)
        assert run(tmp_path, check=True)["changed"] is True
        assert run(tmp_path)["changed"] is True
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        assert run(tmp_path)["changed"] is False


def test_module_refuses_to_overwrite_and_changes_nothing(tmp_path):
    (tmp_path / "guest.txt").write_text("my notes\n")
    result = run(tmp_path)
    assert result["failed"] is True
    assert "guest.txt is no connection sheet" in result["msg"] and str(tmp_path) in result["msg"]
    assert contents(tmp_path) == {"guest.txt": "my notes\n"}


def test_module_names_the_problems_of_a_bad_list(tmp_path):
    result = run(tmp_path, projects=[{**PROJECTS[0], "read": ["nobody"]}])
    assert result["failed"] is True
    assert "peat_projects, entry 1 (hewlsample): read names the unknown person 'nobody'" in result["msg"]
