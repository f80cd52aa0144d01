"""What is on a server already, as the inventory would say it.

Only what a list can say as it is goes into it: an account with other rights, from hosts no list
names, or let in in another way is left out, so that site.yml leaves it alone and reports it. So is
one that looks like a service's.
"""

from __future__ import annotations

import collections
import hashlib
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from . import auth
from . import lab as labs
from .account_state import Account, Login, State, like
from .addresses import ANYWHERE, AddressError, Network, display, network_of, parse
from .foreign import LOCAL_HOSTS, PROTECTED, guarded
from .schema import Identity
from .sql import grant_escaped, printable

# What needs no quotes in YAML, neither as a value nor inside [ ] and { }.
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*|[0-9]{1,3}(\.[0-9]{1,3}){3}(/[0-9]{1,2})?")
_TEMPLATE = ("{{", "{%", "{#")
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))


def yaml_text(value: object) -> str:
    """Return a name, address, boolean or list of these as an inventory writes it on one line.

    Text that Ansible would take for a template gets a tag that says it is none: it comes from others.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(yaml_text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {yaml_text(item)}" for key, item in value.items()) + "}"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    tag = "!unsafe " if any(mark in text for mark in _TEMPLATE) else ""
    quoted = printable(text.replace("\\", "\\\\").replace('"', '\\"'))
    return f'{tag}"{quoted}"'


def project_entry(
    name: str, clients: str, keep_history: bool = True, write: Iterable[object] = (), read: Iterable[object] = ()
) -> dict[str, object]:
    """Return an entry of peat_projects that says no more than it must."""
    entry: dict[str, object] = {"name": name, "clients": clients}
    if not keep_history:
        entry["keep_history"] = False
    for level, items in (("write", list(write)), ("read", list(read))):
        if items:
            entry[level] = items
    return entry


def inventory_lines(
    database: str,
    clients: str = "peat2",
    keep_history: bool = True,
    write: Iterable[str] = (),
    read: Iterable[str] = (),
    known: Collection[str] = (),
) -> list[str]:
    """Return the lines of an inventory that adopt one database, and the people not `known` to it.

    A person's addresses are for the reader to fill in: an account for every address tells none.
    """
    write, read = sorted(write), sorted(set(read) - set(write))
    new = sorted({*write, *read} - set(known))
    lines = ["peat_people:"] if new else []
    lines += [f"  - {{name: {yaml_text(person)}, from: [ADDRESS]}}" for person in new]
    return [*lines, "peat_projects:", f"  - {yaml_text(project_entry(database, clients, keep_history, write, read))}"]


# A whole server


@dataclass(frozen=True)
class Adoption:
    """The lists that describe a server, and what they do not say.

    `hashes` has people's stored passwords as an inventory writes them.
    """

    networks: list[dict]
    people: list[dict]
    projects: list[dict]
    hashes: dict[str, str] = field(repr=False)
    remarks: tuple[str, ...]


def adopt(
    state: State,
    identities: Mapping[str, Identity],
    databases: Iterable[str],
    allow_anywhere: bool = False,
    protected: Iterable[str] = (),
) -> Adoption:
    """Return the lists that describe a server.

    `identities` tells what each database with RelStorage's tables is, `databases` has the names of
    all. Accounts of the names in `protected` are others' business, and so are those of services.
    """
    return _Adopter(state, identities, databases, allow_anywhere, protected).adopt()


# With these a client can commit; the rest of what site.yml grants is added by it.
_WRITES = frozenset(("SELECT", "INSERT", "UPDATE", "DELETE"))


class _Adopter:
    """One adoption. Methods take out what cannot be said, with a remark for each."""

    def __init__(
        self,
        state: State,
        identities: Mapping[str, Identity],
        databases: Iterable[str],
        allow_anywhere: bool,
        protected: Iterable[str],
    ) -> None:
        self.state = state
        self.databases = sorted(databases)
        self.allow_anywhere = allow_anywhere
        self.untouchable = PROTECTED | labs.RESERVED_USERS | frozenset(protected)
        self.remarks: list[str] = []
        self._names: dict[str, list[str]] = {}
        self._folded: set[tuple[str, str]] = set()
        self.projects = self._projects(identities)
        # By person: the level of each project at each network, and how they are let in there.
        self.levels: dict[str, dict[Network, dict[str, str]]] = {}
        self.logins: dict[str, dict[Account, Login]] = {}

    def adopt(self) -> Adoption:
        for account in sorted(self.state.accounts):
            self._account(account, self.state.accounts[account])
        self._shut_out()
        sources = {person: _sorted(levels) for person, levels in self.levels.items()}
        names = _shared(sources)
        networks = [{"name": name, "addresses": list(map(display, found))} for found, name in names.items()]
        people = []
        for person, found in sources.items():
            entry: dict = {"name": person, "from": _said(found, names)}
            if any(login.tls for login in self.logins[person].values()):
                entry["tls"] = "required"
            people.append(entry)
        hashes = {person: self._hash(person) for person in self.levels}
        projects = [self._project(name, identity, sources, names) for name, identity in self.projects.items()]
        labs.load(networks, people, projects, self.allow_anywhere, self.state.flavour)
        return Adoption(networks, people, projects, hashes, tuple(map(printable, self.remarks)))

    # Databases

    def _projects(self, identities: Mapping[str, Identity]) -> dict[str, Identity]:
        """Return the databases that a list can have as projects."""
        found: dict[str, Identity] = {}
        for name, identity in sorted(identities.items()):
            wrong = f"is {identity.text}: {identity.remedy}, then add it" if identity.generation is None else ""
            wrong = wrong or _problem(projects=[_bare(name, identity)]) or self._twice("database", name)
            if wrong:
                self.remarks.append(f"the database {name} {wrong}")
            else:
                found[name] = identity
        return found

    def _twice(self, kind: str, name: str) -> str:
        """Return what is wrong with a name if an earlier one differs only in case."""
        if (kind, name.lower()) in self._folded:
            return "has a name that differs only in case from another's"
        self._folded.add((kind, name.lower()))
        return ""

    def _project(
        self,
        name: str,
        identity: Identity,
        sources: Mapping[str, tuple[Network, ...]],
        names: Mapping[tuple[Network, ...], str],
    ) -> dict:
        items: dict[str, list] = {labs.WRITE: [], labs.READ: []}
        for person, levels in self.levels.items():
            for level, listed in items.items():
                found = _sorted(network for network in levels if levels[network].get(name) == level)
                if found:
                    whole = found == sources[person]
                    listed.append(person if whole else {"person": person, "from": _said(found, names)})
        entry = project_entry(name, identity.generation, identity.keep_history, items[labs.WRITE], items[labs.READ])
        if not any(items.values()):
            self.remarks.append(f"nobody of the list reaches the project {name}")
        return entry

    # Accounts

    def _account(self, account: Account, login: Login) -> None:
        """Take one account into the lists, or remark why not."""
        if account.user in self.untouchable or not account.user or login.role or account.host in LOCAL_HOSTS:
            return
        if guarded(self.state, account, self.untouchable):
            self.remarks.append(
                f"{account} was left out: it looks like the account of a replication, backup or monitoring service,"
                " which as a person would lose rights; if it is a person's, list the person by another name"
            )
            return
        levels, reasons = self._levels(account)
        if not levels and not reasons:
            self.remarks.append(f"{account} was left out: it reaches no project")
            return
        network = self._network(account.host)
        reasons = [
            *self._name_reasons(account.user),
            *self._host_reasons(account, network, levels),
            *self._login_reasons(login, levels),
            *self._mixed_reasons(account.user, login),
            *reasons,
        ]
        if network is None or reasons:
            self.remarks.append(f"{account} was left out: it {', and it '.join(reasons)}")
            return
        if network_of(account.host) is None:
            self.remarks.append(
                f"{account} is said as {display(network)}, which site.yml gives an account of its own; the one there is"
                f" stays until you say DROP USER {account.sql}"
            )
        there = self.levels.setdefault(account.user, {}).setdefault(network, {})
        for name, level in levels.items():
            if there.get(name) != labs.WRITE:
                there[name] = level
        self.logins.setdefault(account.user, {})[account] = login

    def _shut_out(self) -> None:
        """Remark what becomes of other machines' accounts that the lists do not have."""
        taken = {account for logins in self.logins.values() for account in logins}
        if any(
            account not in taken and not login.role and account.host not in LOCAL_HOSTS
            for account, login in self.state.accounts.items()
        ):
            self.remarks.append(
                "site.yml leaves accounts that are not in the lists, but its firewall lets in no address that is not:"
                " who uses such an account from elsewhere is shut out"
            )

    def _network(self, host: str) -> Network | None:
        """Return the network of a host that clients do come from, None where no list can say it."""
        network = network_of(host)
        if network is not None:
            return network
        try:
            if re.fullmatch(r"(\d{1,3}\.){1,3}%", host):
                groups = host.split(".")[:-1]
                return parse(".".join([*groups, *["0"] * (4 - len(groups))]) + f"/{8 * len(groups)}")
            # MariaDB takes it and never matches it.
            if self.state.flavour == "mysql" and re.fullmatch(r"[\d.]+/\d+", host):
                return parse(host)
        except AddressError:
            pass
        return None

    def _name_reasons(self, user: str) -> list[str]:
        if user not in self._names:
            wrong = _problem(people=[{"name": user, "from": ["192.0.2.1"]}], flavour=self.state.flavour)
            wrong = wrong or self._twice("person", user)
            self._names[user] = [f"cannot be a person: {wrong}"] if wrong else []
        return self._names[user]

    def _host_reasons(self, account: Account, network: Network | None, levels: Mapping[str, str]) -> list[str]:
        if network is None:
            return ["is for a host that no list names, and that may match no client: give the person IP addresses"]
        if network is ANYWHERE and not self.allow_anywhere:
            said = "; ".join(f"{level}s {name}" for name, level in levels.items())
            return [
                f"comes from every address ({said}): list {account.user} with addresses, or set"
                " peat_allow_anywhere: true and adopt again"
            ]
        return []

    def _login_reasons(self, login: Login, levels: Mapping[str, str]) -> list[str]:
        reasons = []
        plugin = auth.PLUGINS[self.state.flavour]
        if login.plugin != plugin or not login.auth or auth.unwritten(auth.written(login.auth, plugin), plugin) is None:
            how = f"by {login.plugin}" if login.auth and login.plugin != plugin else "without a usable password"
            reasons.append(f"is let in {how}")
        if login.locked:
            reasons.append("is locked")
        if login.expired:
            reasons.append("has an expired password")
        if login.tls not in ("", "ANY"):
            reasons.append("needs a certificate")
        old = [name for name in levels if self.projects[name].generation == "peat2"]
        if login.tls and old:
            reasons.append(f"needs TLS, which PEAT 2.3 cannot ask for, on {', '.join(old)}")
        return reasons

    def _mixed_reasons(self, user: str, login: Login) -> list[str]:
        others = self.logins.get(user, {}).values()
        if others and bool(login.tls) != any(other.tls for other in others):
            return ["needs TLS where other accounts of the person do not, or the other way round"]
        return []

    def _levels(self, account: Account) -> tuple[dict[str, str], list[str]]:
        """Return the level on each project, and reasons why the list cannot have the account's rights."""
        found: dict[str, set[str]] = {}
        reasons = []
        for scope, privileges in sorted(self.state.rights.get(account, {}).items()):
            if scope.kind == "global":
                reasons.append("has rights on the whole server")
            elif scope.kind in ("role", "proxy"):
                reasons.append(f"has the {scope}")
            elif scope.kind == "database":
                for name in self._meant(account, scope.database):
                    found.setdefault(name, set()).update(privileges)
            elif scope.database in self.databases:
                found.setdefault(scope.database, set())
        others = [name for name in found if name not in self.projects]
        if others:
            reasons.append(f"has rights on what is no project ({', '.join(others)})")
        levels = {}
        for name in found.keys() & self.projects.keys():
            if found[name] >= _WRITES:
                levels[name] = labs.WRITE
            elif "SELECT" in found[name]:
                levels[name] = labs.READ
        return {name: levels[name] for name in sorted(levels)}, reasons

    def _meant(self, account: Account, pattern: str) -> list[str]:
        """Return the databases that whoever made a grant had in mind."""
        matched = [name for name in self.databases if like(pattern, name)]
        literal = re.sub(r"\\(.)", r"\1", pattern)
        if grant_escaped(literal) == pattern or (matched == [literal] and "%" not in pattern):
            return matched
        if literal in matched:
            more = [name for name in matched if name != literal]
            self.remarks.append(
                f"{account} was given rights on `{pattern}`, where _ and % stand for any letters, and so on"
                f" {', '.join(more)}, too: only {literal} was taken as meant"
            )
            return [literal]
        self.remarks.append(
            f"{account} was given rights on `{pattern}`, where _ and % stand for any letters: the list names those"
            f" there are ({', '.join(matched) or 'none'}), later ones are not covered"
        )
        return matched

    def _hash(self, person: str) -> str:
        """Return the password that most accounts of a person have, as an inventory writes it."""
        logins = self.logins[person]
        kept, _count = collections.Counter(login.auth for login in logins.values()).most_common(1)[0]
        others = [account for account, login in logins.items() if login.auth != kept]
        # Each account of MySQL has a salt of its own: different texts may be of one password.
        if others and self.state.flavour == "mariadb":
            listed = ", ".join(map(str, others))
            self.remarks.append(f"the other password of {listed} will become the one that {person} has elsewhere")
        elif others:
            listed = ", ".join(map(str, others))
            self.remarks.append(f"if the password of {listed} is another, it will become the one of {person} elsewhere")
        return auth.written(kept or "", auth.PLUGINS[self.state.flavour])


def _bare(name: str, identity: Identity) -> dict:
    return {"name": name, "clients": identity.generation, "keep_history": identity.keep_history}


def _problem(people: Iterable[dict] = (), projects: Iterable[dict] = (), flavour: str | None = None) -> str:
    """Return what is wrong with an entry, '' for nothing."""
    try:
        labs.load([], list(people), list(projects), flavour=flavour)
    except labs.LabError as error:
        return "; ".join(problem.partition("): ")[2] or problem for problem in error.problems)
    return ""


def _sorted(networks: Iterable[Network]) -> tuple[Network, ...]:
    """Return networks in the order of people: IPv4, IPv6, everywhere."""
    return tuple(
        sorted(
            networks,
            key=lambda network: (
                (9, 0, 0) if network is ANYWHERE else (network.version, int(network.network_address), network.prefixlen)
            ),
        )
    )


def _shared(sources: Mapping[str, tuple[Network, ...]]) -> dict[tuple[Network, ...], str]:
    """Return names for the sets of addresses from which several people work."""
    people: dict[tuple[Network, ...], list[str]] = {}
    for person, networks in sources.items():
        people.setdefault(networks, []).append(person)
    return {
        networks: f"{found[0]}-and-{found[1] if len(found) == 2 else f'{len(found) - 1}-more'}"
        for networks, found in people.items()
        if len(found) > 1 and len(networks) > 1
    }


def _said(networks: tuple[Network, ...], names: Mapping[tuple[Network, ...], str]) -> list[str]:
    return [names[networks]] if networks in names else list(map(display, networks))


# The files

LISTS_FILE, PASSWORDS_FILE = "adopted.yml", "adopted_passwords.yml"
PASSWORDS_VARIABLE = "peat_adopted_passwords"
_WIDTH = 116


def lists_text(adoption: Adoption, server: str, port: int, allow_anywhere: bool = False) -> str:
    """Return the inventory's file with the lists, and the remarks as comments."""
    lines = [
        f"# The lists that describe {server}, as playbooks/adopt.yml found it. From now on they are yours to edit.",
        "",
        f"mysql_port: {port}",
        *(["peat_allow_anywhere: true"] if allow_anywhere else []),
    ]
    for variable, entries in (
        ("networks", adoption.networks),
        ("people", adoption.people),
        ("projects", adoption.projects),
    ):
        lines += ["", f"peat_{variable}:" + ("" if entries else " []")]
        for entry in entries:
            lines += _entry_lines(entry)
            if variable == "people" and entry["name"] in adoption.hashes:
                lines.append(f"    password_hash: \"{{{{ {PASSWORDS_VARIABLE}['{entry['name']}'] }}}}\"")
    if adoption.remarks:
        lines += ["", "# Not in the lists, or not as it was:"]
        for remark in adoption.remarks:
            lines += textwrap.wrap(
                remark,
                _WIDTH,
                initial_indent="# - ",
                subsequent_indent="#   ",
                break_long_words=False,
                break_on_hyphens=False,
            )
    text = "".join(f"{line}\n" for line in lines)
    return f"{_MARK}{_digest(text)}\n{text}"


def passwords_text(adoption: Adoption) -> str:
    """Return the file with the people's stored passwords."""
    lines = [
        "# What the server stores of the passwords that people have. Keep it secret: ansible-vault encrypt it.",
        f"{PASSWORDS_VARIABLE}:" + ("" if adoption.hashes else " {}"),
        *(f"  {yaml_text(person)}: {yaml_text(text)}" for person, text in adoption.hashes.items()),
    ]
    return "".join(f"{line}\n" for line in lines)


def refusals(lists: str | None, passwords: str | None, listed: Collection[str], path: str) -> list[str]:
    """Return why the files may not be written: they would replace what somebody wrote.

    `lists` and `passwords` are the texts that are there, `listed` the lists the inventory has.
    """
    hosted = [name for name in listed if name.startswith("peat_hosted_")]
    if hosted:
        return [f"the inventory has {', '.join(hosted)}, which {path} would repeat: adopt before projects are hosted"]
    if lists is None and listed:
        return [
            f"the inventory has {', '.join(listed)} already, which {path} would override: adopt a server into an"
            " inventory that only names it, or take these away"
        ]
    if lists is None:
        return []
    found = []
    mark, _newline, text = lists.partition("\n")
    if mark != _MARK + _digest(text):
        found.append(f"{path} was edited since it was written: move it away, or say -e peat_adopt_replace=true")
    if passwords is not None and passwords.startswith("$ANSIBLE_VAULT"):
        found.append(f"{PASSWORDS_FILE} beside {path} is encrypted: decrypt it or move it away first")
    return found


_MARK = "# Unedited as long as the rest of this file has the digest "


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _entry_lines(entry: Mapping) -> list[str]:
    lines = []
    for key, value in entry.items():
        line = f"    {key}: {yaml_text(value)}"
        if len(line) <= _WIDTH or not isinstance(value, list):
            lines.append(line)
        else:
            lines += [f"    {key}:", *(f"      - {yaml_text(item)}" for item in value)]
    return ["  - " + lines[0].lstrip(), *lines[1:]]
