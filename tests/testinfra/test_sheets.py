"""What a sheet says is what works: its fields and its programs are used on the clients' hosts as they stand there."""

from __future__ import annotations

import html
import pathlib
import re
import textwrap

import pytest
from conftest import put

PYTHON = "/opt/relstorage4/bin/python"
#: What a person adds to the sheet's program, to store a text in the root object and to read it.
STORE = """
import transaction
connection = db.open()
connection.root()["sheet"] = {text!r}
transaction.commit()
db.close()
"""
READ = """
print("read:", db.open().root()["sheet"])
db.close()
"""
FROM_FILE = "import ZODB.config\ndb = ZODB.config.databaseFromURL({path!r})\n"


@pytest.fixture(scope="module")
def sheet(lab):
    """sheet(person, suffix=".txt"): the content of a sheet."""
    return lambda person, suffix=".txt": pathlib.Path(lab.server["sheets"], person + suffix).read_text()


def part(text: str, project: str) -> str:
    """What a sheet says about one project."""
    return text.partition(f"\nProject {project}\n")[2].partition("\n\n\n")[0]


def codes(text: str) -> list[str]:
    """What a part gives to copy, in order."""
    return [textwrap.dedent(block) for block in re.findall(r"(?m)^    .*\n?(?:\n?    .*\n?)*", text)]


def password(text: str) -> str:
    return re.search(r"(?m)^Password +(.*)$", text)[1]


def matches(line: str, shown: str) -> bool:
    """Whether a line is the sheet's, in which ADDRESS is anything the server calls an address."""
    return re.fullmatch(re.escape(shown.strip()).replace("ADDRESS", "[^']+"), line.strip()) is not None


@pytest.fixture(scope="module")
def run(modern):
    """run(program, password, file=None): what a Python program did that asks for the password.

    `file` is the content of the configuration file, and gets the password from the environment instead.
    """

    def run(program: str, secret: str, file: str | None = None):
        folder = "/run/peat-sheet"
        if file is not None:
            put(modern, file.encode(), f"{folder}/zodb.conf")
            program = FROM_FILE.format(path=f"{folder}/zodb.conf") + program
        put(modern, program.encode(), f"{folder}/program.py")
        line = f"{PYTHON} {folder}/program.py"
        return modern.run(f"PEAT_PASSWORD=%s {line}" if file else f"echo %s | {line}", secret)

    yield run
    modern.run("rm -rf /run/peat-sheet")


def test_everybody_has_a_text_and_a_page_for_their_own_eyes(lab):
    # Beside the authority's certificate, which is no secret.
    files = [path for path in pathlib.Path(lab.server["sheets"]).iterdir() if path.name != "ca.crt"]
    people = [person["name"] for person in lab.server["people"]]
    assert {path.name for path in files} == {name + suffix for name in people for suffix in (".txt", ".html")}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


@pytest.mark.parametrize("form", ["program", "configuration file"])
@pytest.mark.parametrize("project", ["modernhp", "modernhf"])
def test_what_the_sheet_gives_to_copy_commits_and_reads(sheet, run, unused, project, form):
    def use(person: str, more: str):
        text = sheet(person)
        program, file, *_refusal = codes(part(text, project))
        if form == "program":
            return run(program + more, password(text))
        return run(more, password(text), file)

    done = use("farrell", STORE.format(text=unused))
    assert done.rc == 0, done.stderr
    assert f"read: {unused}\n" in use("guest", READ).stdout
    refused = use("guest", STORE.format(text="never"))
    assert refused.rc != 0
    shown = codes(part(sheet("guest"), project))[2].splitlines()
    assert matches(refused.stderr.splitlines()[-1], shown[0]), refused.stderr
    assert f"read: {unused}\n" in use("farrell", READ).stdout


def test_the_other_driver_shows_the_other_refusal(sheet, run):
    text = sheet("guest")
    program, _file, refusal = codes(part(text, "modernhp"))
    refused = run(program.replace("'PyMySQL'", "'MySQLdb'") + STORE.format(text="never"), password(text))
    assert refused.rc != 0
    assert matches(refused.stderr.splitlines()[-1], refusal.splitlines()[1]), refused.stderr


def test_the_fields_for_peats_dialog_open_the_project(sheet, run_client, unused):
    def use(person: str, command: str) -> dict:
        text = sheet(person)
        about = part(text, "hewlsample")
        fields = dict(re.findall(r"(?m)^  (\w+) +(\S+)", about))
        assert fields["backend"] == "mysql"
        return run_client(
            "peat2",
            "peat2",
            command,
            fields["username"],
            fields["project"],
            server=fields["server"],
            port=int(fields["port"]),
            password=password(text),
            prefix=unused,
        )

    assert use("farrell", "add")["ok"]
    assert use("guest", "read")["names"] == [f"{unused}00001"]
    refused = use("guest", "add")
    assert refused["step"] == "commit"
    (shown,) = codes(part(sheet("guest"), "hewlsample"))
    # Nothing in PEAT's window, this in the terminal it was started from.
    assert matches(refused["error"]["seen"], shown), refused


def test_the_page_gives_the_same_to_copy(sheet, lab):
    for person in lab.server["people"]:
        text, page = sheet(person["name"]), sheet(person["name"], ".html")
        blocks = [html.unescape(block) for block in re.findall(r"(?s)<pre>(.*?)</pre>", page)]
        assert blocks == [code.rstrip("\n") for code in codes(text)]
        assert f'<dd class="value">{html.escape(password(text))}</dd>' in page
