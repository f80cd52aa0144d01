"""Projects that each have a small file of their own in the inventory, merged with the lab's lists.

`playbooks/host-project.yml` puts what a lab asks for into one variable, ``peat_hosted_<project>``,
in a file of its own. `merge` is the only place where these and the lists ``peat_networks``,
``peat_people`` and ``peat_projects`` become one description; whatever needs a list takes the merged.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import lab as labs
from .addresses import AddressError, display, parse
from .adoption import yaml_text

PREFIX = "peat_hosted_"

# `project`, `write` and `read` of a project are said here by `project` and `people`.
_PROJECT_KEYS = tuple(key for key in labs.PROJECT_KEYS if key not in ("name", "write", "read"))
_KEYS = ("project", "contact", "from", "people", *_PROJECT_KEYS)
_PERSON_KEYS = ("name", "from", "level", "tls")


def variable_of(project: str) -> str:
    """Return the name of the variable that describes a hosted project: letters, digits and _ only."""
    return PREFIX + "".join(
        letter if letter == "_" or (letter.isascii() and letter.isalnum()) else f"_{ord(letter):x}_"
        for letter in project
    )


def merge(lists: Mapping[str, Any], hosted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lab as one: the lists, and after them what each hosted project adds.

    `lists` has networks, people, projects, allow_anywhere, perhaps admin and administrators, and tls
    (the policy for people without one) as the inventory gives them, of any type. The result has the
    same keys but tls, `logins` (people, who makes databases, and administrators), `origins` (which
    variable an entry is from, for messages, as `labs.load` takes it) and `problems` of the hosted
    projects themselves.
    """
    return _Merger(lists).merge(hosted)


def problems(lab: Mapping[str, Any], flavour: str | None = None) -> list[str]:
    """Return everything that is wrong with a merged lab, one text per problem."""
    try:
        load(lab, flavour)
    except labs.LabError as error:
        return error.problems
    return []


def load(lab: Mapping[str, Any], flavour: str | None = None) -> labs.Lab:
    """Return the lab that a merged description describes; raise LabError with every problem."""
    found = list(lab["problems"])
    try:
        loaded = labs.load(
            lab["networks"],
            lab["people"],
            lab["projects"],
            lab["allow_anywhere"],
            flavour,
            lab["origins"],
            lab["admin"],
            lab["administrators"],
        )
    except labs.LabError as error:
        raise labs.LabError(found + error.problems) from None
    if found:
        raise labs.LabError(found)
    return loaded


class _Merger:
    """One merge. `problems` says what is wrong with the hosted projects, not with the lists."""

    def __init__(self, lists: Mapping[str, Any]) -> None:
        self.lists = lists
        self.problems: list[str] = []
        self.people: list[dict[str, Any]] = []
        self.projects: list[dict[str, Any]] = []
        self.origins: dict[str, dict[int, str]] = {"peat_people": {}, "peat_projects": {}}
        # Everybody by name, and where they are described.
        self.known: dict[str, tuple[Mapping[str, Any], str]] = {
            entry["name"]: (entry, "peat_people") for entry in _entries(lists["people"]) if _is_name(entry.get("name"))
        }
        self.own = frozenset(self.known)

    def merge(self, hosted: Mapping[str, Any]) -> dict[str, Any]:
        for variable, value in hosted.items():
            self._hosted(variable, value)
        admin, administrators = self.lists.get("admin"), self.lists.get("administrators", [])
        return {
            "networks": self.lists["networks"],
            "people": self._with_policy(_joined(self.lists["people"], self.people)),
            "projects": _joined(self.lists["projects"], self.projects),
            "allow_anywhere": self.lists["allow_anywhere"],
            "admin": admin,
            "administrators": administrators,
            "logins": _joined(self.lists["people"], self.people + _login(admin) + _console_logins(administrators)),
            "origins": self.origins,
            "problems": self.problems,
        }

    def _with_policy(self, people: Any) -> Any:
        """Return the people with the server's TLS policy where they have none of their own."""
        policy = self.lists.get("tls", labs.OFFERED)
        if policy not in labs.POLICIES:
            self.problems.append(f"peat_tls: is {policy!r}: write one of {', '.join(labs.POLICIES)}")
        if not isinstance(people, list):
            return people
        default = labs.OFFERED if policy == "off" else policy
        for entry in _entries(people):
            if policy == "off" and entry.get("tls", labs.OFFERED) not in (labs.OFFERED, labs.OPTIONAL):
                self._add(
                    f"peat_people ({entry.get('name')})",
                    f"has tls: {entry['tls']} on a server with peat_tls: 'off': remove one of the two",
                )
        if default == labs.OFFERED:  # what `labs.load` takes for granted
            return people
        return [{"tls": default, **entry} if isinstance(entry, Mapping) else entry for entry in people]

    def _hosted(self, variable: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            self.problems.append(f"{variable}: is no mapping: write {', '.join(_KEYS)} under it")
            return
        self._unknown_keys(value, _KEYS, variable)
        name = value.get("project")
        if not _is_name(name):
            self._add(variable, "project is missing or not text: write the project's name, in quotes if it is a number")
            return
        if variable != variable_of(name):
            self._add(
                variable,
                f"describes the project {name!r}, whose variable is {variable_of(name)}: rename it, or another"
                " file that has the same variable takes the place of this one",
            )
        contact = value.get("contact")
        if not _is_name(contact) or not contact.isprintable():
            self._add(variable, "contact is missing: write, on one line, who answers for the project")
        levels: dict[str, list[str]] = {labs.WRITE: [], labs.READ: []}
        people = value.get("people")
        if not isinstance(people, list) or not people:
            self._add(variable, "people is missing, empty or no list: write '- {name: NAME, from: [ADDRESS]}' for each")
            people = []
        for number, entry in enumerate(people, 1):
            self._person(variable, number, entry, value.get("from"), levels)
        self.projects.append({"name": name, **{key: value[key] for key in _PROJECT_KEYS if key in value}, **levels})
        self._origin("peat_projects", self.lists["projects"], self.projects, variable)

    def _person(self, variable: str, number: int, entry: Any, default: Any, levels: dict[str, list[str]]) -> None:
        where = f"{variable}, person {number}"
        if not isinstance(entry, Mapping) or not _is_name(entry.get("name")):
            self._add(where, "has no name: write {name: NAME, from: [ADDRESS]}")
            return
        name = entry["name"]
        where += f" ({name})"
        self._unknown_keys(entry, _PERSON_KEYS, where)
        known, described = self.known.get(name, (None, ""))
        if known is not None:
            self._same_person(where, entry, known, described, None if name in self.own else default)
            self._level(where, entry, levels)
            return
        person = {"name": name, "from": entry.get("from", default)}
        if not person["from"]:
            self._add(where, "is not known in this lab: write from: [ADDRESS], the addresses this person works from")
            return
        self._level(where, entry, levels)
        if "tls" in entry:
            person["tls"] = entry["tls"]
        self.known[name] = (person, variable)
        self.people.append(person)
        self._origin("peat_people", self.lists["people"], self.people, variable)

    def _level(self, where: str, entry: Mapping[str, Any], levels: dict[str, list[str]]) -> None:
        level = entry.get("level", labs.WRITE)
        if level not in (labs.WRITE, labs.READ):
            self._add(where, "level is neither write nor read: write one of the two, or leave it out for write")
        else:
            levels[level].append(entry["name"])

    def _same_person(
        self, where: str, entry: Mapping[str, Any], known: Mapping[str, Any], described: str, default: Any
    ) -> None:
        """Somebody known already must be described as they are, or not at all."""
        given = entry.get("from", default)
        if given is not None and _normal(given) != _normal(known.get("from")):
            self._add(
                where,
                f"works from other addresses in {described} ({_shown(known.get('from'))}):"
                + (" leave from out, or change it there" if described == "peat_people" else " make the two the same"),
            )
        if "tls" in entry and entry["tls"] != known.get("tls", self.lists.get("tls", labs.OFFERED)):
            self._add(where, f"has another tls in {described}: make the two the same")

    def _origin(self, listed: str, own: Any, added: list, variable: str) -> None:
        self.origins[listed][(len(own) if isinstance(own, list) else 0) + len(added)] = variable

    def _unknown_keys(self, entry: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
        for key in entry:
            if key not in keys:
                self._add(where, f"has the unknown key {key!r}: the keys are {', '.join(keys)}")

    def _add(self, where: str, problem: str) -> None:
        self.problems.append(f"{where}: {problem}")


def _login(admin: Any) -> list[dict[str, Any]]:
    """Return the account with which PEAT makes databases as an entry like a person's, for its password."""
    if not isinstance(admin, Mapping) or not admin:
        return []
    given = {"password": admin["password"]} if admin.get("password") is not None else {}
    return [{"name": labs.ADMIN, "from": admin.get("from"), **given}]


def _console_logins(administrators: Any) -> list[dict[str, Any]]:
    """Return the accounts for phpMyAdmin as entries like people's, for their passwords."""
    return [{"from": [], **entry} for entry in _entries(administrators)]


def _joined(own: Any, added: list) -> Any:
    """Return one list; what is no list stays as it is, for `labs.load` to complain of."""
    return [*own, *added] if isinstance(own, list) else own


def _entries(value: Any) -> Iterable[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _normal(sources: Any) -> Any:
    """Return addresses and names of networks such that two ways to write the same are equal."""
    if not isinstance(sources, list):
        return sources
    found = set()
    for item in sources:
        try:
            found.add(display(parse(item)))
        except AddressError:
            found.add(str(item))
    return found


def _shown(sources: Any) -> str:
    return ", ".join(map(str, sources)) if isinstance(sources, list) else str(sources)


# A request


@dataclass(frozen=True)
class Request:
    """What a request makes of the inventory: the variable `variable` gets `value`.

    With `write` the file `path` gets `text`. Without problems all that can be done.
    """

    problems: tuple[str, ...]
    variable: str = ""
    value: Mapping[str, Any] = field(default_factory=dict)
    write: bool = False
    path: str = ""
    text: str = ""


def request(
    asked: Any,
    lists: Mapping[str, Any],
    hosted: Mapping[str, Any],
    folder: str,
    replace: bool = False,
    flavour: str | None = None,
) -> Request:
    """Return what a request makes of a valid lab, described by `lists` and `hosted` as for `merge`.

    `folder` is where the inventory keeps the variables of the project's servers. A project that is hosted already is
    changed only with `replace`.
    """
    if not isinstance(asked, Mapping):
        return Request((f"the request is no mapping: write {', '.join(_KEYS)}",))
    if not _is_name(asked.get("project")):
        return Request(("the request has no project, or one that is not text: write project: NAME",))
    variable = variable_of(asked["project"])
    others = {name: each for name, each in hosted.items() if name != variable}
    value = _standing_alone(asked, lists, others)
    found = problems(merge(lists, {**others, variable: value}), flavour)
    found = [problem.replace(variable, "the request", 1) for problem in found]
    name = value["project"]
    found += unread(folder)
    path = os.path.join(folder, f"project_{name}.yml")
    there = hosted.get(variable)
    if value.get("backend", labs.RELSTORAGE) == labs.ZEO:
        # Its file is for the database servers, which is where the playbook works.
        found.append("the request: has backend: zeo, but what is hosted is a database: add it to peat_projects")
    if there is None and value.get("state") == "absent":
        found.append(f"the request: there is no hosted project {name} to be absent: leave state out")
    if there is not None and there != value and not replace:
        found.append(
            f"the request: the project {name} is hosted already, as {there.get('contact')} asked for, and differs: if"
            " this is to change it, say -e peat_request_replace=true; otherwise choose another name"
        )
    if found:
        return Request(tuple(found))
    if there != value and os.path.exists(path) != (there is not None):
        where = (
            "it is in another file of the inventory: change it there" if there else "the file does not: move it away"
        )
        return Request((f"the request: {path} should hold the project {name} if it were hosted, but {where}",))
    return Request((), variable, value, there != value, path, _file(variable, value))


def unread(folder: str) -> list[str]:
    """Return what is wrong where Ansible would read the folder instead of a file of that name."""
    for file in (folder + end for end in ("", ".yml", ".yaml", ".json")):
        if os.path.isfile(file):
            return [f"Ansible does not read {file} besides the folder {folder}: move it into the folder"]
    return []


def _standing_alone(asked: Mapping[str, Any], lists: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request with the addresses of people whom only other hosted projects know.

    A hosted project can then go without taking the people of another one along.
    """
    own = {entry["name"] for entry in _entries(lists["people"]) if _is_name(entry.get("name"))}
    known = {
        person["name"]: person for person in _entries(merge(lists, others)["people"]) if person.get("name") not in own
    }
    value = {key: _plain(asked[key]) for key in asked if asked[key] is not None}
    if isinstance(value.get("people"), list):
        for entry in _entries(value["people"]):
            if entry.get("name") in known and not ({"from"} & {*entry, *value}):
                entry.update({key: _plain(item) for key, item in known[entry["name"]].items() if key != "name"})
    return value


def _plain(value: Any) -> Any:
    """Return a copy of what YAML holds, in types of its own."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def _file(variable: str, value: Mapping[str, Any]) -> str:
    """Return the text of a hosted project's file."""
    lines = ["# A hosted project; how to change or remove it: docs/operating.md, `Host a project`.", f"{variable}:"]
    lines += [f"  {key}: {yaml_text(value[key])}" for key in _KEYS if key in value and key != "people"]
    lines += ["  people:", *(f"    - {yaml_text(entry)}" for entry in value["people"])]
    return "".join(f"{line}\n" for line in lines)
