"""The report: one page of who can reach what on a lab's servers, and in what state these are.

`server` makes from the list and from what was read a plain dict, `page` makes from several of them the
page. A section is a function of `_SECTIONS` that returns nothing where its part of the dict is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from . import markup
from .addresses import ANYWHERE, Network, display, parse
from .lab import READ, RELSTORAGE, WRITE, ZEO, Lab
from .markup import Content, Markup, element

Server = dict[str, Any]

#: What holds a project.
_HOLDS = {RELSTORAGE: "database", ZEO: "storage"}

#: People side by side in one matrix: what fits on a sheet of A4.
ACROSS = 50
#: A certificate with fewer days left is marked.
WARN_DAYS = 14
#: Lines of one list; a bare server has one pending change for every account and right.
LISTED = 200

_AS_OF = re.compile(r'<time datetime="([^"]*)"')
_LEVELS = {(WRITE,): ("W", "write"), (READ,): ("R", "read"), (READ, WRITE): ("W R", "both")}


# What there is to say


def server(about: Mapping[str, Any], lab: Lab, networks: Sequence[Mapping], found: Mapping[str, Any]) -> Server:
    """Return one server's part of the report.

    `about` has name, address, port, findings and pending, and if need be certificates and, where it is the same
    for everybody, tls; `networks` is the inventory's list, for the names in it; `found` is what status.read or
    zeo_status.read answers, with `system`.
    """
    known = [(entry["name"], frozenset(parse(address) for address in entry["addresses"])) for entry in networks]
    pending = list(about["pending"])
    rows: dict[str, dict[tuple[str, str], list[Network]]] = {}
    for access in lab.matrix:
        rows.setdefault(access.project, {}).setdefault((access.level, access.person), []).append(access.network)
    projects = []
    for project in lab.projects.values():
        figures = found["databases"].get(project.name)
        if project.state == "absent":
            if figures is None:
                continue
            pending.append(f"remove the {_HOLDS[project.backend]} {project.name} once its removal is confirmed")
        projects.append(
            {
                "name": project.name,
                "backend": project.backend,
                "clients": project.clients,
                "keep_history": project.keep_history,
                "state": project.state,
                "database": figures,
                "access": _grouped(rows.get(project.name, {}), known),
            }
        )
    return {
        **{key: about[key] for key in ("name", "address", "port", "findings")},
        **{key: found[key] for key in ("software", "announced", "system")},
        "pending": pending,
        "running": found.get("running", True),
        "certificates": list(about.get("certificates") or ()),
        "people": [{"name": person.name, "tls": about.get("tls") or person.tls} for person in lab.people.values()],
        "projects": projects,
        "networks": [
            {"name": name, "addresses": [display(network) for network in sorted(of, key=str)]} for name, of in known
        ],
    }


def _grouped(rows: Mapping[tuple[str, str], list[Network]], known: Sequence[tuple[str, frozenset]]) -> list[dict]:
    """Return who has which level from where, people with the same level and addresses together."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (level, person), addresses in rows.items():
        groups.setdefault((level, _named(addresses, known)), []).append(person)
    return [
        {"level": level, "people": people, "from": list(places)}
        for (level, places), people in sorted(groups.items(), key=lambda group: group[0][0] != WRITE)
    ]


def _named(addresses: Iterable[Network], known: Sequence[tuple[str, frozenset]]) -> tuple[str, ...]:
    """Return addresses in the words of the list: the networks of which all are here, and the rest as they are."""
    left = dict.fromkeys(addresses)
    names = []
    for name, members in known:
        if members and members <= left.keys():
            names.append(name)
            left = {address: None for address in left if address not in members}
    return (*names, *("anywhere" if address is ANYWHERE else display(address) for address in left))


# The page


def page(servers: Sequence[Server], unread: Sequence[str], as_of: str) -> str:
    """Return the page. `unread` names servers that could not be read; `as_of` is a time such as 2026-11-23 02:00."""
    names = [*(entry["name"] for entry in servers), *unread]
    title = "Who can reach what"
    body: list[Content] = [
        element("h1", title),
        element("p", "As of ", element("time", f"{as_of} UTC", datetime=as_of.replace(" ", "T") + "Z"), class_="quiet"),
    ]
    if len(names) > 1:
        body.append(_contents(servers, unread))
    for number, entry in enumerate(servers):
        body.append(element("section", _server(entry, f"server-{number}"), id=f"server-{number}"))
    for number, name in enumerate(unread, len(servers)):
        body.append(
            element(
                "section",
                element("h2", name),
                _notice("Not read", ["The server could not be read. What went wrong is in the output of the run."]),
                id=f"server-{number}",
            )
        )
    return markup.page(f"{title}: {', '.join(names)}", body, style=_STYLE)


def as_of(text: str) -> str | None:
    """Return the time that a page says it is of, as `page` takes it; None if it is no such page."""
    found = _AS_OF.search(text)
    return found[1].removesuffix("Z").replace("T", " ") if found else None


def _contents(servers: Sequence[Server], unread: Sequence[str]) -> Content:
    lines = []
    for number, entry in enumerate(servers):
        figures = [_count(len(entry["projects"]), "project"), _count(len(entry["people"]), "person", "people")]
        figures += [_count(len(entry[key]), *words) for key, words in _NOTICES.items() if entry[key]]
        lines.append((f"server-{number}", entry["name"], ", ".join(figures)))
    lines += [(f"server-{number}", name, "not read") for number, name in enumerate(unread, len(servers))]
    items = [element("li", element("a", name, href=f"#{target}"), f": {rest}") for target, name, rest in lines]
    return element("nav", element("ul", items), aria_label="Servers")


def _server(entry: Server, key: str) -> Content:
    facts = [("Address", f"{entry['address']}, port {entry['port']}"), ("Software", entry["software"])]
    if entry["announced"]:
        facts.append(("Announced as", entry["announced"]))
    if entry["system"]:
        facts.append(("System", entry["system"]))
    sizes = [project["database"]["disk"] for project in entry["projects"] if project["database"]]
    holds = {_HOLDS[project["backend"]] for project in entry["projects"]} or {"database"}
    facts.append(("Size on disk", f"{_size(sum(sizes))} in {_count(len(sizes), *holds)}"))
    if not entry["running"]:
        facts.append(("State", "does not run: nobody can connect"))
    rows = [(element("dt", label), element("dd", value)) for label, value in facts]
    return element("h2", entry["name"]), element("dl", rows), [section(entry, key) for section in _SECTIONS]


_NOTICES = {"findings": ("finding",), "pending": ("pending change",)}


def _findings(entry: Server, key: str) -> Content:
    if not entry["findings"]:
        return element("p", "Nothing on the server is beside the list.", class_="good")
    return _notice(f"{_count(len(entry['findings']), 'finding')}: on the server, not in the list", entry["findings"])


def _pending(entry: Server, key: str) -> Content:
    if not entry["pending"]:
        return element("p", "Nothing is pending: the server is what the list says.", class_="good")
    return _notice(f"{_count(len(entry['pending']), 'pending change')}: what the next run does", entry["pending"])


def _notice(title: str, lines: Sequence[str]) -> Markup:
    more = len(lines) - LISTED
    items = [element("li", line) for line in lines[:LISTED]]
    if more > 0:
        items.append(element("li", f"and {more:,} more"))
    return element("div", element("h3", title), element("ul", items), class_="notice")


# A column of the projects' table: its title, whether it holds figures, and its text for a project.
_COLUMNS: tuple[tuple[str, bool, Callable[[dict], Content]], ...] = (
    ("Clients", False, lambda project: project["clients"]),
    ("History", False, lambda project: "kept" if project["keep_history"] else "not kept"),
    ("State", False, lambda project: _state(project)),
    ("Objects", True, lambda project: _figure(project, "objects", "over ", "{:,}".format)),
    ("Object data", True, lambda project: _figure(project, "data", "about ", _size)),
    ("On disk", True, lambda project: _size(project["database"]["disk"]) if project["database"] else "-"),
    ("Last commit (UTC)", False, lambda project: _commit(project)),
)


def _projects(entry: Server, key: str) -> Content:
    head = element(
        "tr",
        element("th", "Project", scope="col"),
        [element("th", title, scope="col", class_="number" if number else None) for title, number, _text in _COLUMNS],
    )
    rows = [
        element(
            "tr",
            element("th", project["name"], scope="row"),
            [element("td", text(project), class_="number" if number else None) for _title, number, text in _COLUMNS],
        )
        for project in entry["projects"]
    ]
    note = (
        "Objects and object data (the stored states, with their history) are exact unless marked: "
        "'over' where only that many were counted, 'about' where the server's estimate is given. "
        "On disk is the server's figure for all tables, indexes and files; of a ZEO storage, its Data.fs, which is the "
        "object data, and its blobs."
    )
    return element("h3", "Projects"), _table("Projects", head, rows, key), element("p", note, class_="quiet")


def _state(project: Mapping[str, Any]) -> str:
    if project["database"] is None:
        return "not created yet"
    return {"present": "open", "frozen": "frozen: read only", "absent": "removal not confirmed"}[project["state"]]


def _figure(project: Mapping[str, Any], key: str, inexact: str, text: Callable[[int], str]) -> str:
    figure = (project["database"] or {}).get(key)
    if figure is None:
        return "-"
    return ("" if figure["exact"] else inexact) + text(figure["value"])


def _commit(project: Mapping[str, Any]) -> str:
    commit = (project["database"] or {}).get("commit")
    if commit is None:
        return "never"
    return f"{commit['time'] or 'unknown time'}{', ' if commit['user'] else ''}{commit['user']}"


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def _matrix(entry: Server, key: str) -> Content:
    """Return projects by people: W and R, or both where it depends on the address."""
    people = [person["name"] for person in entry["people"]]
    levels: dict[tuple[str, str], set[str]] = {}
    for project in entry["projects"]:
        for group in project["access"]:
            for person in group["people"]:
                levels.setdefault((project["name"], person), set()).add(group["level"])
    tables = []
    for start in range(0, len(people), ACROSS):
        across = people[start : start + ACROSS]
        head = element(
            "tr",
            element("th", "Project", scope="col"),
            [element("th", element("span", person), scope="col", class_="person") for person in across],
        )
        rows = [
            element(
                "tr",
                element("th", project["name"], scope="row"),
                [_level(levels.get((project["name"], person), ())) for person in across],
            )
            for project in entry["projects"]
        ]
        caption = "Who reaches which project"
        if len(people) > ACROSS:
            caption += f", people {start + 1} to {start + len(across)}"
        tables.append(_table(caption, head, rows, f"{key}-{start}", "matrix"))
    note = (
        "W: writes and reads. R: reads. W R: writes from some addresses, reads from others. "
        "Empty: no access. Addresses are below."
    )
    return element("div", element("h3", "People and projects"), element("p", note), tables, class_="wide")


def _level(levels: Iterable[str]) -> Markup:
    letters, class_ = _LEVELS.get(tuple(sorted(levels)), ("", None))
    return element("td", letters, class_=class_)


def _access(entry: Server, key: str) -> Content:
    head = element("tr", [element("th", title, scope="col") for title in ("Project", "Level", "People", "From")])
    bodies = []
    for project in entry["projects"]:
        groups = project["access"] or [{"level": "nobody", "people": [], "from": []}]
        rows = []
        for group in groups:
            first = element("th", project["name"], scope="rowgroup", rowspan=len(groups)) if not rows else None
            cells = (group["level"], ", ".join(group["people"]), ", ".join(group["from"]))
            rows.append(element("tr", first, [element("td", cell) for cell in cells]))
        bodies.append(element("tbody", rows))
    table = _table("From where", head, bodies, key, "access")
    return element("h3", "From where"), table


_ENCRYPTION = {
    "required": "TLS only",
    "certificate": "TLS and a certificate of their own only",
    "forwarder": "TLS by the forwarder only",
    "none": "none",
}


def _people(entry: Server, key: str) -> Content:
    counts = {person["name"]: {WRITE: set(), READ: set()} for person in entry["people"]}
    for project in entry["projects"]:
        for group in project["access"]:
            for person in group["people"]:
                counts[person][group["level"]].add(project["name"])
    titles = (("Writes in", True), ("Only reads in", True), ("Encryption", False))
    head = element(
        "tr",
        element("th", "Person", scope="col"),
        [element("th", title, scope="col", class_="number" if number else None) for title, number in titles],
    )
    rows = [
        element(
            "tr",
            element("th", person["name"], scope="row"),
            element("td", str(len(counts[person["name"]][WRITE])), class_="number"),
            element("td", str(len(counts[person["name"]][READ] - counts[person["name"]][WRITE])), class_="number"),
            element("td", _ENCRYPTION.get(person["tls"], "TLS or none")),
        )
        for person in entry["people"]
    ]
    return element("h3", "People"), _table("People", head, rows, key)


def _certificates(entry: Server, key: str) -> Content:
    if not entry["certificates"]:
        return None
    head = element("tr", [element("th", title, scope="col") for title in ("Certificate of", "Last day", "Days left")])
    rows = [
        element(
            "tr",
            element("th", row["name"], scope="row"),
            element("td", row["not_after"]),
            element("td", f"{row['days_left']:,}", class_="both" if row["days_left"] < WARN_DAYS else "number"),
        )
        for row in sorted(entry["certificates"], key=lambda row: row["days_left"])
    ]
    return element("h3", "Certificates"), _table("Certificates", head, rows, key)


def _networks(entry: Server, key: str) -> Content:
    if not entry["networks"]:
        return None
    rows = [(element("dt", row["name"]), element("dd", ", ".join(row["addresses"]))) for row in entry["networks"]]
    return element("h3", "Networks"), element("dl", rows)


_SECTIONS: tuple[Callable[[Server, str], Content], ...] = (
    _findings,
    _pending,
    _projects,
    _matrix,
    _access,
    _people,
    _certificates,
    _networks,
)


def _table(caption: str, head: Content, rows: Content, key: str, class_: str | None = None) -> Markup:
    """Return a table that scrolls by itself, with the keyboard as well, under a head that stays."""
    bodies = rows if class_ == "access" else element("tbody", rows)
    label = f"{key}-{caption.split(',')[0].replace(' ', '-').lower()}"
    table = element("table", element("caption", caption, id=label), element("thead", head), bodies, class_=class_)
    return element("div", table, class_="scroll", role="region", tabindex=0, aria_labelledby=label)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


_STYLE = """
main { max-width: 100rem; }
nav ul { padding-left: 1.25rem; }
a { color: var(--accent); }
.good { color: var(--good); }
.notice {
  margin: 1rem 0; padding: .25rem 1rem .5rem; max-width: 64rem;
  background: var(--warn-band); border-left: 4px solid var(--warn); border-radius: 0 4px 4px 0;
}
.notice h3 { margin: .5rem 0; color: var(--warn); }
.notice ul { padding-left: 1.25rem; max-width: none; }
.scroll { overflow: auto; max-width: 100%; max-height: 85vh; margin: .75rem 0; width: fit-content;
  border: 1px solid var(--line); border-radius: 4px; }
table { border-collapse: separate; border-spacing: 0; font-size: .9rem; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
th, td { padding: .35rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody:last-child tr:last-child > * { border-bottom: 0; }
td { overflow-wrap: break-word; min-width: 4rem; }
thead th { position: sticky; top: 0; z-index: 1; background: var(--band); vertical-align: bottom; white-space: nowrap; }
tbody th { position: sticky; left: 0; background: var(--paper); font-weight: 600; overflow-wrap: anywhere;
  min-width: 11rem; max-width: 16rem; border-right: 1px solid var(--line); }
thead th:first-child { left: 0; z-index: 2; border-right: 1px solid var(--line); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.matrix th, .matrix td { padding: .25rem .35rem; }
.matrix td { text-align: center; min-width: 1.9rem; border-right: 1px solid var(--line); white-space: nowrap; }
.matrix .person { text-align: left; padding: .5rem .35rem; }
.matrix .person span { writing-mode: vertical-rl; transform: rotate(180deg); }
.write { background: var(--good-band); color: var(--good); font-weight: 600; }
.read { background: var(--plain-band); color: var(--plain); }
.both { background: var(--warn-band); color: var(--warn); font-weight: 600; }
.access td:nth-last-child(-n + 2) { min-width: 11rem; }
@media (max-width: 40rem) { tbody th { min-width: 8.5rem; max-width: 9rem; } }
@media print {
  .wide { page: wide; }
  .scroll { overflow: visible; max-height: none; border: 0; width: auto; }
  thead th, tbody th { position: static; }
  tr { break-inside: avoid; }
  table { font-size: 8pt; border-collapse: collapse; }
  th, td { padding: .7mm 1.2mm; }
  .matrix { font-size: 7pt; }
  .matrix th, .matrix td { padding: .4mm .3mm; min-width: 0; }
  .matrix .person { padding: 1mm .3mm; }
  .matrix .person span { line-height: 1.1; }
  .matrix tbody th { min-width: 30mm; }
  td, th { border: .2mm solid var(--line) !important; }
}
@page wide { size: A4 landscape; margin: 10mm; }
"""
