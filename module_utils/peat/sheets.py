"""Connection sheets: what each person enters to reach each project, as plain text and as a page.

The fields are those of the dialog of PEATDB 2.3 ("Remote Project"): username, password, server,
port, project and backend, where `mysql` is the backend that uses RelStorage, and the other is `zeo`.
"""

from __future__ import annotations

import ipaddress
import re
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Union

from . import encryption, markup
from .addresses import ANYWHERE, display
from .lab import CERTIFICATE, FORWARDER, READ, RELSTORAGE, REQUIRED, WRITE, ZEO, Access, Lab, Person, Project

MARKER = "PEAT Server connection sheet"
TEXT, PAGE = ".txt", ".html"
SUFFIXES = (TEXT, PAGE)
MODE = 0o600

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")
_NOT_GENERATED = "(generated when the playbook runs)"
_KEPT = "(the one you have had: nobody else knows it)"
_BEGINNING = {TEXT: f"{MARKER}\n", PAGE: f"<!DOCTYPE html>\n<!-- {MARKER} -->\n"}
_PASSWORD_LINE = re.compile(r"(?m)^(Password\s+)(.*)$")


class SheetError(Exception):
    """A sheet cannot be made; the text names the file or person and says what to do."""


@dataclass(frozen=True)
class Server:
    """Where clients connect: a host name or address they can use, and the port of each service.

    `zeo_tls` is whether ZEO asks clients for a certificate.
    """

    address: str
    port: int
    forwarder_port: int = 8081
    zeo_port: int = 8090
    zeo_tls: bool = False


def address_problem(address: str) -> str:
    """Return what is wrong with the name or address by which clients call the server, "" for nothing.

    It is written into files that clients' programs read.
    """
    if _HOST_NAME.fullmatch(address) or (_IPV6.fullmatch(address) and _is_ipv6(address)):
        return ""
    return f"peat_server_address: {address!r} is no name and no address: write one by which clients reach the server"


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Plan:
    """What to do in the directory, by file name. `write` has (text before or None, text after)."""

    write: dict[str, tuple[str | None, str]]
    remove: dict[str, str]

    def diffs(self, directory: str) -> list[dict[str, str]]:
        """Return the changes as Ansible shows them, without any password."""
        changes: list[tuple[str, str | None, str | None]] = [
            (name, before, after) for name, (before, after) in self.write.items()
        ]
        changes += [(name, before, None) for name, before in self.remove.items()]
        return [
            {
                "before_header": f"{directory}/{name}",
                "after_header": f"{directory}/{name}",
                "before": _shown(name, before, None),
                "after": _shown(name, after, before),
            }
            for name, before, after in sorted(changes)
        ]


def render_all(lab: Lab, server: Server, passwords: Mapping[str, str | None]) -> dict[str, str]:
    """Return the text and the page of everybody's sheet by file name; SheetError for a server nobody can reach."""
    if problem := address_problem(server.address):
        raise SheetError(problem)
    rows: dict[str, dict[str, list[Access]]] = {name: {} for name in lab.people}
    for access in lab.matrix:
        rows[access.person].setdefault(access.project, []).append(access)
    sheets = {}
    for name, projects in rows.items():
        parts = list(_sheet(lab, name, server, passwords.get(name), projects))
        sheets[name + TEXT] = _as_text(parts)
        sheets[name + PAGE] = _as_page(name, server, parts)
    return sheets


def plan(existing: Mapping[str, str], wanted: Mapping[str, str]) -> Plan:
    """Return what makes a directory hold the wanted sheets; both are texts by file name.

    Only files that are sheets (by name and first lines) are replaced or removed: SheetError if a
    file that is none has the name of a wanted one.
    """
    for name in wanted:
        if name in existing and not _is_sheet(name, existing[name]):
            raise SheetError(
                f"{name} is no connection sheet (it does not begin as one, with {MARKER!r}) and would be "
                "overwritten: move the file away"
            )
    return Plan(
        write={name: (existing.get(name), text) for name, text in wanted.items() if existing.get(name) != text},
        remove={name: text for name, text in existing.items() if name not in wanted and _is_sheet(name, text)},
    )


def _is_sheet(name: str, text: str) -> bool:
    return any(name.endswith(suffix) and text.startswith(_BEGINNING[suffix]) for suffix in SUFFIXES)


def _shown(name: str, text: str | None, before: str | None) -> str:
    """Return a sheet for a diff: the password is not shown, only that it differs from before.

    A page says what the text beside it says, so only its being there is shown.
    """
    if text is None:
        return ""
    if name.endswith(PAGE):
        return f"the page of {name[: -len(PAGE)]}{TEXT}" + (", as it is now\n" if before else "\n")
    secret = _PASSWORD_LINE.search(text)
    former = _PASSWORD_LINE.search(before or "")
    changed = secret and former and secret[2] != former[2]
    return _PASSWORD_LINE.sub(r"\1(changed, not shown)" if changed else r"\1(not shown)", text)


# What a sheet consists of, and its two forms


@dataclass(frozen=True)
class Title:
    """The beginning of a part."""

    text: str


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Fields:
    """Labels and values, one per line."""

    rows: tuple[tuple[str, str], ...]
    indent: str = ""


@dataclass(frozen=True)
class Code:
    """Lines to copy, or to recognise, exactly as they are."""

    text: str


Part = Union[Title, Words, Fields, Code]

_WIDTH = 96  # of the text; labels take 11 of it


def _as_text(parts: Iterable[Part]) -> str:
    lines = [MARKER, "Written by PEAT Server: change the lab's list, not this file."]
    for part in parts:
        if isinstance(part, Title):
            lines += ["", "", part.text, "-" * len(part.text)]
            continue
        # The fields of an access follow their title at once.
        lines += [] if isinstance(part, Fields) and lines[-1].startswith("---") else [""]
        if isinstance(part, Words):
            lines += textwrap.wrap(part.text, _WIDTH, break_long_words=False, break_on_hyphens=False)
        elif isinstance(part, Fields):
            lines += [f"{part.indent}{label:<11}{value}" for label, value in part.rows]
        else:
            lines += [f"    {line}".rstrip() for line in part.text.splitlines()]
    return "\n".join(lines) + "\n"


def _as_page(person: str, server: Server, parts: Iterable[Part]) -> str:
    sections: list[list[markup.Content]] = [[markup.element("h1", f"Connection sheet for {person}")]]
    for part in parts:
        if isinstance(part, Title):
            sections.append([markup.element("h2", part.text)])
        elif isinstance(part, Words):
            sections[-1].append(markup.element("p", part.text))
        elif isinstance(part, Fields):
            rows = [
                (markup.element("dt", label), markup.element("dd", value, class_="value")) for label, value in part.rows
            ]
            sections[-1].append(markup.element("dl", rows))
        else:
            sections[-1].append(markup.element("pre", part.text))
    footer = markup.element("p", "Written by PEAT Server: change the lab's list, not this file.", class_="quiet")
    return markup.page(
        f"{person} at {server.address}",
        [markup.element("section", section) for section in sections],
        footer,
        note=MARKER,
        style="main { max-width: 52rem; }\n",
    )


# What a sheet says


def _sheet(
    lab: Lab,
    person: str,
    server: Server,
    password: str | None,
    projects: Mapping[str, list[Access]],
) -> Iterator[Part]:
    # What a client enters: through the forwarder, its own end of it.
    enters = {RELSTORAGE: server, ZEO: Server(server.address, server.zeo_port, zeo_tls=server.zeo_tls)}
    if lab.people[person].tls == FORWARDER:
        enters[RELSTORAGE] = Server("127.0.0.1", server.forwarder_port)
    mine = [lab.projects[name] for name in projects]
    served = [enters[backend] for backend in sorted({project.backend for project in mine})] or [server]
    secret = password or (_KEPT if lab.people[person].password_hash else _NOT_GENERATED)
    asked = not mine or any(project.backend == RELSTORAGE or project.clients == "peat2" for project in mine)
    yield Fields(
        (
            ("Server", " or ".join(dict.fromkeys(one.address for one in served))),
            ("Port", " or ".join(str(one.port) for one in served)),
            ("User name", person),
            *((("Password", secret),) if asked else ()),
        )
    )
    yield Words("Keep this sheet to yourself. The server answers only from the addresses named below.")
    if not projects:
        yield Words("No project is open to you at present.")
    for project in mine:
        yield from _project(project, person, enters[project.backend], projects[project.name])
    for backend, encryption_of in ((RELSTORAGE, _encryption), (ZEO, _zeo_encryption)):
        clients = {project.clients for project in mine if project.backend == backend}
        if clients:
            yield from encryption_of(lab.people[person], clients, server)


def _project(project: Project, person: str, server: Server, rows: list[Access]) -> Iterator[Part]:
    yield Title(f"Project {project.name}")
    levels = {
        level: ["anywhere" if row.network is ANYWHERE else display(row.network) for row in rows if row.level == level]
        for level in (WRITE, READ)
    }
    yield Fields(tuple((level, f"from {', '.join(sources)}") for level, sources in levels.items() if sources))
    if all(levels.values()):
        yield Words("Where two of these contain your address, the narrower one counts.")
    if project.state == "frozen":
        yield Words("The project is frozen: everybody reads, nobody writes.")
    yield from _PROGRAM[project.backend, project.clients](project, person, server)
    if levels[READ]:
        yield from _REFUSAL[project.clients](project, person)


def _dialog(project: Project, person: str, server: Server, backend: str) -> Iterator[Part]:
    yield Words("In PEAT: menu Project, Remote Project, then fill in")
    yield Fields(
        (
            ("username", person),
            ("password", "(the password above)"),
            ("server", server.address),
            ("port", str(server.port)),
            ("project", project.name),
            ("backend", backend),
        ),
        indent="  ",
    )


def _peat(project: Project, person: str, server: Server) -> Iterator[Part]:
    yield from _dialog(project, person, server, "mysql   (this is RelStorage; zeo cannot connect)")


def _peat_zeo(project: Project, person: str, server: Server) -> Iterator[Part]:
    yield from _dialog(project, person, server, "zeo     (mysql cannot connect)")
    yield Words("Files can be attached to the records of this project.")


def _python_zeo(project: Project, person: str, server: Server) -> Iterator[Part]:
    yield Words(
        "In Python 3: pip install 'ZEO>=6,<7', then the lines below. Files (blobs) are copied to the folder blobs."
    )
    where = f"({server.address!r}, {server.port}), storage={project.name!r}, blob_dir='blobs'"
    # The server does not answer who asks for more.
    where += ", read_only=True" if project.state == "frozen" else ""
    lines = ["import ZODB", "from ZEO.ClientStorage import ClientStorage", ""]
    if server.zeo_tls:
        lines.insert(0, "import ssl")
        lines += [
            "context = ssl.create_default_context(cafile='ca.crt')",
            f"context.load_cert_chain('{person}.client.crt', '{person}.client.key')",
            "storage = ClientStorage(",
            f"    {where},",
            f"    ssl=context, ssl_server_hostname={server.address!r})",
        ]
    else:
        lines.append(f"storage = ClientStorage({where})")
    yield Code("\n".join([*lines, "db = ZODB.DB(storage)"]))


def _python(project: Project, person: str, server: Server) -> Iterator[Part]:
    yield Words(
        "In Python 3: pip install 'RelStorage>=4,<5' PyMySQL, then the lines below. The server has made the tables, "
        "so create_schema stays False. To keep files (blobs) as well, give Options a blob_dir: an empty folder for "
        "copies of them."
    )
    yield Code(
        "import getpass\n"
        "import ZODB\n"
        "from relstorage.adapters.mysql import MySQLAdapter\n"
        "from relstorage.options import Options\n"
        "from relstorage.storage import RelStorage\n"
        "\n"
        f"options = Options(driver='PyMySQL', create_schema=False, keep_history={project.keep_history})\n"
        "adapter = MySQLAdapter(\n"
        f"    host={server.address!r}, port={server.port}, db={project.name!r},\n"
        f"    user={person!r}, passwd=getpass.getpass(), options=options)\n"
        "db = ZODB.DB(RelStorage(adapter, options=options))"
    )
    yield Words(
        "The same as a file for ZODB.config.databaseFromURL(FILE), with the password in the environment variable "
        "PEAT_PASSWORD. In zope.conf the section relstorage goes into a zodb_db section instead."
    )
    # ZConfig replaces $(NAME); a plain $ is written twice.
    address, name, user = (text.replace("$", "$$") for text in (server.address, project.name, person))
    yield Code(
        "%import relstorage\n"
        "<zodb>\n"
        "  <relstorage>\n"
        "    create-schema false\n"
        f"    keep-history {str(project.keep_history).lower()}\n"
        "    <mysql>\n"
        "      driver PyMySQL\n"
        f"      host {address}\n"
        f"      port {server.port}\n"
        f"      db {name}\n"
        f"      user {user}\n"
        "      passwd $(PEAT_PASSWORD)\n"
        "    </mysql>\n"
        "  </relstorage>\n"
        "</zodb>"
    )


_PROGRAM = {
    (RELSTORAGE, "peat2"): _peat,
    (RELSTORAGE, "relstorage4"): _python,
    (ZEO, "peat2"): _peat_zeo,
    (ZEO, "current"): _python_zeo,
}

_UNWRITTEN = "A project that nobody has written to yet cannot be opened by a reader."


def _denied(project: Project, person: str) -> str:
    return f"""OperationalError: (1044, "Access denied for user '{person}'@'ADDRESS' to database '{project.name}'")"""


def _peat_refusal(project: Project, person: str) -> Iterator[Part]:
    yield Words(
        "Where you only read, nothing is stored when you save. PEAT's window does not say so; the terminal in which "
        "PEAT was started does, with this last line (ADDRESS is how the server's list names where you are):"
    )
    yield Code(_denied(project, person))
    yield Words(_UNWRITTEN)


def _python_refusal(project: Project, person: str) -> Iterator[Part]:
    yield Words(
        "Where you only read, nothing is stored: a commit raises the first of these with PyMySQL, the second with "
        "mysqlclient (ADDRESS is how the server's list names where you are):"
    )
    yield Code(f"pymysql.err.{_denied(project, person)}\nMySQLdb.{_denied(project, person)}")
    yield Words(_UNWRITTEN)


def _zeo_refusal(project: Project, person: str) -> Iterator[Part]:
    yield Words(
        "Nothing is stored: a commit raises ZODB.POSException.ReadOnlyError. Without read_only=True you wait in vain."
    )


_REFUSAL = {"peat2": _peat_refusal, "relstorage4": _python_refusal, "current": _zeo_refusal}


def _forwarder(server: Server) -> Iterator[Part]:
    """Say how to set up the person's end of the forwarder."""
    yield Words(
        f"You connect through a forwarder on your own machine, stunnel, which encrypts: hence the server 127.0.0.1. "
        f"Start it before PEAT. It needs {encryption.AUTHORITY}, which lies beside this sheet, and refuses every "
        f"server but {server.address}. Without it the server answers 1045, Access denied."
    )
    for system, steps in encryption.STEPS.items():
        yield Words(f"{system}: {' '.join(steps)}")
    yield Words(f"{encryption.CONFIGURATION}, for Linux and macOS:")
    yield Code(encryption.forwarder(server.address, server.forwarder_port).rstrip())
    yield Words("stunnel.conf, for Windows:")
    yield Code(encryption.forwarder(server.address, server.forwarder_port, encryption.WINDOWS).rstrip())


def _encryption(person: Person, clients: Collection[str], server: Server) -> Iterator[Part]:
    """Say what is encrypted between these generations of clients and the server, and how to make sure of it."""
    yield Title("Encryption")
    if person.tls == FORWARDER:
        yield from _forwarder(server)
        return
    if person.tls in (REQUIRED, CERTIFICATE):
        yield Words("You are let in over TLS only; without it the server answers 1045, Access denied.")
    if person.tls == CERTIFICATE:
        yield Words(
            f"You also need your own certificate, {person.name}.client.crt and {person.name}.client.key, which lie "
            "beside this sheet. Keep the key to yourself."
        )
    if "peat2" in clients:
        yield Words(
            "PEAT 2.3 cannot ask for TLS: use it in a network you trust, or ask your administrator for a forwarder "
            "(stunnel, ssh) that encrypts, and enter the forwarder's address and port as server and port."
        )
    if "relstorage4" in clients:
        yield Words(
            "PyMySQL uses TLS wherever the server offers it, and believes any server; mysqlclient uses it only when "
            f"told. With {encryption.AUTHORITY}, which lies beside this sheet, both use it and make sure whose server "
            "it is. Have the files where the program starts, or give their paths. Add to MySQLAdapter(...), for "
            "PyMySQL and for mysqlclient:"
        )
        own = [f"{person.name}.client.{kind}" for kind in ("crt", "key")] if person.tls == CERTIFICATE else []
        files = [encryption.AUTHORITY, *own]
        yield Code("\n".join(_arguments(encryption.driver_arguments(name, *files)) for name in encryption.DRIVERS))
        yield Words(
            "In a file for ZODB.config add read_default_file OPTIONS to the section mysql, with OPTIONS the path of a "
            "file of these lines. That makes only PyMySQL look at whose server it is:"
        )
        yield Code(encryption.option_file(*files).rstrip())


def _arguments(values: Mapping[str, object]) -> str:
    """Return arguments as they are written in a call."""
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _zeo_encryption(person: Person, clients: Collection[str], server: Server) -> Iterator[Part]:
    """Say what is encrypted between a ZEO server and these generations of clients."""
    yield Title("Encryption of ZEO")
    if "peat2" in clients:
        yield Words(
            "ZEO encrypts nothing between PEAT and the server, and only the login keeps the password to itself: use it "
            "in a network you trust."
        )
    if "current" in clients and server.zeo_tls:
        yield Words(
            f"The server lets in who has a certificate. Yours, {person.name}.client.crt and {person.name}.client.key, "
            "lies beside this sheet, and ca.crt shows whose server it is. Keep the key to yourself."
        )
    elif "current" in clients:
        yield Words("Nothing is encrypted, and the server lets in every program at the addresses above.")
