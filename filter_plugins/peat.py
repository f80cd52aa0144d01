"""Filters that offer the lab's description to playbooks: its problems, and what follows from it.

All run on the controller, before any connection. Values of the inventory are passed as they are.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import sys
from typing import Any

import yaml
from ansible.errors import AnsibleFilterError
from ansible.module_utils.parsing.convert_bool import boolean

# Ansible offers module_utils to modules only; this is the same code, on the controller.
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "module_utils"))

from peat import adoption, hosting, passwords, pki, sheets, verification, zeo_lab
from peat import lab as labs


def peat_lab(lists: dict[str, Any], hosted: dict[str, Any]) -> dict[str, Any]:
    """Return the lab as one description: the inventory's lists and its hosted projects, by variable."""
    return hosting.merge(lists, dict(sorted(hosted.items())))


def peat_request(
    request: Any,
    lists: dict[str, Any],
    hosted: dict[str, Any],
    folder: str,
    replace: Any = False,
    flavour: str | None = None,
) -> dict[str, Any]:
    """Return what a request makes of the inventory: see hosting.Request.

    The request is a mapping, or the name of a file that holds one.
    """
    replaces = _meant(replace, "peat_request_replace")
    if isinstance(request, str):
        try:
            with open(request, encoding="utf-8") as file:
                request = yaml.safe_load(file)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise AnsibleFilterError(f"the request cannot be read from {request}: {error}") from error
    return dataclasses.asdict(hosting.request(request, lists, hosted, folder, replaces, flavour or None))


def peat_adoption_refusals(folder: str, listed: list[str], replace: Any = False) -> list[str]:
    """Return why adopting a server may not write its files into a folder; nothing matters with `replace`."""
    if _meant(replace, "peat_adopt_replace"):
        return []
    texts = []
    for name in (adoption.LISTS_FILE, adoption.PASSWORDS_FILE):
        try:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                texts.append(file.read())
        except FileNotFoundError:
            texts.append(None)
    return [*hosting.unread(folder), *adoption.refusals(*texts, listed, os.path.join(folder, adoption.LISTS_FILE))]


def peat_problems(
    lab: dict[str, Any],
    flavour: str | None = None,
    admin_networks: Any = (),
    address: Any = None,
    phpmyadmin: Any = False,
    tls: Any = labs.OFFERED,
) -> list[str]:
    """Return everything that is wrong with the description, one text per problem.

    `address` is that by which clients call the server.
    """
    problems = hosting.problems(lab, flavour)
    if address is not None and (problem := sheets.address_problem(str(address))):
        problems.append(problem)
    if phpmyadmin:
        problems += labs.phpmyadmin_problems(lab["administrators"], admin_networks, tls)
    if not problems:
        try:
            labs.addresses(lab["networks"], admin_networks, "peat_admin_networks")
        except labs.LabError as error:
            problems = error.problems
    return problems


def peat_openings(
    lab: dict[str, Any], port: int | str, moves_from: int | None = None, forwarder_port: int | str | None = None
) -> list[dict[str, Any]]:
    """Return what the firewall opens for a backend: its port, and the networks from which anybody has access.

    The port is in the result without sources too: then nobody may reach it. While a server moves
    from another port, that one is guarded like the new one. The forwarder's port is for those who
    come through it; without any it is not managed.
    """
    loaded = _load(lab)
    direct, forwarded = labs.openings(loaded), labs.openings(loaded, forwarded=True)
    opened = [{"port": number, "sources": direct} for number in (int(port), moves_from) if number]
    if forwarder_port and forwarded:
        opened.append({"port": int(forwarder_port), "sources": forwarded})
    return opened


def peat_of_backend(lab: dict[str, Any], *backends: str) -> dict[str, Any]:
    """Return the lab with the projects of these backends only."""
    projects = lab["projects"]
    if isinstance(projects, list):
        projects = [
            project
            for project in projects
            if isinstance(project, dict) and project.get("backend", labs.RELSTORAGE) in backends
        ]
    if labs.RELSTORAGE in backends:
        return {**lab, "projects": projects}
    return {**lab, "projects": projects, "admin": None, "administrators": []}


def peat_certified(lab: dict[str, Any]) -> list[str]:
    """Return who logs in to a project with a certificate."""
    return _with_tls(lab, labs.CERTIFICATE)


def peat_certificates(lab: dict[str, Any], directory: str) -> dict[str, dict[str, str]]:
    """Return subject and issuer of people's certificates beside the sheets, of those that exist already."""
    from peat import pki  # its library takes a while to load, and few labs need it

    found = {}
    for person in peat_certified(lab):
        path = os.path.join(directory, f"{person}.client.crt")
        if os.path.exists(path):
            with open(path, "rb") as file:
                found[person] = pki.names(file.read(), path)
    return found


def peat_forwarded(lab: dict[str, Any]) -> list[str]:
    """Return who reaches a project through the forwarder."""
    return _with_tls(lab, labs.FORWARDER)


def peat_addresses(lab: dict[str, Any], items: Any, variable: str) -> list[str]:
    """Return the addresses of a list of network names and addresses, which messages call by its variable."""
    try:
        return labs.addresses(lab["networks"], items, variable)
    except labs.LabError as error:
        raise AnsibleFilterError(str(error)) from error


def peat_client_count(lab: dict[str, Any]) -> int:
    """Return how many clients may be open at once, for the server's limits.

    One for each person and network they have access from, and at least one per person.
    """
    loaded = _load(lab)
    clients = {(access.person, access.network) for access in loaded.matrix}
    idle = loaded.people.keys() - {person for person, _network in clients}
    return len(clients) + len(idle)


def peat_needs_announcement(projects: Any) -> bool:
    """Tell whether some project's clients need MariaDB to announce a version they understand."""
    return any(project.get("clients") == "relstorage4" and project.get("state") != "absent" for project in projects)


def peat_zeo_projects(lab: dict[str, Any]) -> list[dict[str, str]]:
    """Return the ZEO projects with what a server has to know of them."""
    return [
        {"name": project["name"], "clients": project["clients"], "state": project.get("state") or "present"}
        for project in peat_of_backend(lab, labs.ZEO)["projects"]
    ]


def peat_zeo_users(lab: dict[str, Any], secrets_dir: str) -> dict[str, str | None]:
    """Return the password of everybody who has access to a ZEO project; None where it is not generated yet."""
    known = peat_passwords(lab["people"], secrets_dir)
    return {name: known[name] for name in zeo_lab.users(_load(lab))}


def peat_zeo_people(lab: dict[str, Any]) -> list[str]:
    """Return who has access to a ZEO project."""
    return zeo_lab.users(_load(lab))


def peat_zeo_problems(
    lab: dict[str, Any],
    tls: Any = False,
    shared_access: Any = False,
    port: int | str = 0,
    other_port: int | str | None = None,
    issued: Any = False,
    given: str = "",
) -> list[str]:
    """Return what of the list the ZEO server of a host cannot keep, one text per problem.

    `issued` is whether its certificate is from the lab's authority, `given` the database server's that is not.
    """
    found = zeo_lab.problems(_load(lab), bool(tls), bool(shared_access), int(port), other_port and int(other_port))
    if issued and given:
        found.append(
            f"zeo_tls with tls_certificate ({given}): a ZEO server lets in whoever its authority certifies, so that "
            "has to be the lab's own. Set tls_certificate for hosts without ZEO only, or give zeo_tls_certificate, "
            "zeo_tls_key and zeo_tls_ca instead of zeo_tls"
        )
    return found


def peat_passwords(people: Any, secrets_dir: str) -> dict[str, str | None]:
    """Return everybody's password by name; None where it has not been generated yet."""
    try:
        return passwords.resolve(people, secrets_dir)
    except passwords.PasswordError as error:
        raise AnsibleFilterError(str(error)) from error


def peat_verification(hosts: dict[str, Any]) -> dict[str, Any]:
    """Return the table of what playbooks/verify.yml found on these hosts, its rows, and how many of them failed.

    `hosts` has the variables of each; what a host did not answer is a row that failed.
    """
    rows = []
    for name, known in hosts.items():
        if (answered := known["peat_answered"]).get("ping") is None:
            found = f"the host cannot be reached: {answered.get('msg') or answered}"
            rows.append({"server": name, **verification.row("host", found, False)})
        for backend in ("", "_zeo"):
            if reason := (known.get(f"peat_unverified{backend}") or {}).get("msg"):
                rows.append({"server": name, **verification.row("host", f"not verified: {reason}", False)})
            rows += (known.get(f"peat_verified{backend}") or {}).get("rows", [])
            for point in (known.get(f"peat_reached{backend}") or {}).get("results", []):
                rows += point.get("rows", [])
    failed = sum(not row["ok"] for row in rows)
    return {"rows": rows, "failed": failed if rows else 1, "table": verification.table(rows)}


def tls_expiry(text: str, name: str, path: str) -> dict[str, list]:
    """Return what is to be known of a certificate on a server: `expiry` and `expiring`, as of those issued."""
    now = datetime.datetime.now(datetime.timezone.utc)
    try:
        found = [pki.expiry(pki.certificates_of(text.encode(), path)[0], name, path, now)]
    except pki.PkiError as error:
        raise AnsibleFilterError(str(error)) from None
    return {"expiry": found, "expiring": pki.expiring(found)}


def tls_files(files: list[dict[str, str]], directory: str) -> list[dict[str, str]]:
    """Return what the controller has for a service as files of its directory on the server, for managed_files."""
    found = []
    for file in files:
        with open(file["src"], encoding="utf-8") as source:
            found.append({"path": f"{directory}/{file['name']}", "mode": "0640", "secret": source.read()})
    return found


def _with_tls(lab: dict[str, Any], tls: str) -> list[str]:
    loaded = _load(lab)
    return sorted({access.person for access in loaded.matrix if loaded.people[access.person].tls == tls})


def _meant(value: Any, variable: str) -> bool:
    """Return a boolean that may be text: -e VARIABLE=false on the command line is."""
    try:
        return boolean(value)
    except TypeError as error:
        raise AnsibleFilterError(f"{variable}: {value!r} is not a boolean: write true or false") from error


def _load(lab: dict[str, Any]) -> labs.Lab:
    try:
        return hosting.load(lab)
    except labs.LabError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            function.__name__: function
            for function in (
                peat_addresses,
                peat_adoption_refusals,
                peat_certificates,
                peat_certified,
                peat_client_count,
                peat_forwarded,
                peat_lab,
                peat_needs_announcement,
                peat_of_backend,
                peat_openings,
                peat_passwords,
                peat_problems,
                peat_request,
                peat_verification,
                peat_zeo_people,
                peat_zeo_problems,
                peat_zeo_projects,
                peat_zeo_users,
                tls_expiry,
                tls_files,
            )
        }
