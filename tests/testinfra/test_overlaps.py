"""Any list, on a real server: what every address can do is what the list says, found out by logging in from it.

hypothesis draws the people's networks (nested ones, single addresses, IPv6 patterns, everywhere), their levels on
the projects, their passwords and TLS rules, and each project's state, generation of clients and whether it keeps
history; a second list is drawn and applied over the first. Number and names of people and projects are always the
same. The addresses are the host modern's, all in the scenario's network `campus`, which the firewall lets in. Of the
addresses that the same networks of a person contain, the first and the last are tried.
"""

from __future__ import annotations

import itertools
from collections import Counter

import logins
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from peat.addresses import contains, parse

pytestmark = pytest.mark.any_list

#: Lists are drawn in pairs. What is drawn depends on nothing but this file.
PAIRS = 20
#: An underscore is a wildcard in a careless GRANT; a dollar sign and a minus must be quoted.
PROJECTS = ("over_lap", "overXlap", "over-l$p")
#: What a project can be: its clients, and whether it keeps history, for which packing empties more tables.
KINDS = (("peat2", True), ("relstorage4", True), ("relstorage4", False))
PACK_HISTORY = {"pack history": "TRUNCATE {}.pack_state_tid"}
PEOPLE = ("a_n", "axn", "bob", "cat.x", "d-e", "eve", "flo", "gus")
PASSWORDS = ("the first password", 'a "second" \\ one')
NOBODY = {"networks": [], "people": [], "projects": [], "allow_anywhere": True, "passwords": {}}

NETWORKS = (
    "%",
    *(f"{{net4}}.{tail}" for tail in ("0/24", "64/26", "64/27", "96/27", "80/28", "112/28", "80/29", "96/30")),
    *(f"{{net4}}.{tail}" for tail in ("98/31", "80", "81", "96", "98", "127", "0/255.255.255.128")),
    *(f"{{net6}}:{tail}" for tail in (":/64", "ca::/80", "ca:5::/96", "ca:5:2::/112")),
    *(f"{{net6}}:{tail}" for tail in ("ca::90", "ca:5::7", "ca:5:2:7", "ca:0:2:7")),
)
ADDRESSES = (
    *(f"{{net4}}.{number}" for number in range(80, 128)),
    *(f"{{net6}}:ca{tail}" for tail in ("::90", "::91", ":5::7", ":5::8", ":5:2:7", ":5:2:8", ":0:2:7", ":50::7")),
)

levels = st.tuples(*(st.sampled_from((None, "read", "write")) for _ in PROJECTS))
people = st.fixed_dictionaries(
    {
        "levels": st.dictionaries(st.sampled_from(NETWORKS), levels, min_size=1, max_size=5),
        "password": st.sampled_from(PASSWORDS),
        "tls": st.sampled_from(("optional", "optional", "optional", "required")),
    }
)
lists = st.fixed_dictionaries(
    {
        "people": st.tuples(*(people for _ in PEOPLE)),
        "kinds": st.tuples(*(st.sampled_from(KINDS) for _ in PROJECTS)),
        "states": st.tuples(*(st.sampled_from(("present", "present", "present", "frozen")) for _ in PROJECTS)),
    }
)


@pytest.fixture(scope="module")
def nets(lab):
    return logins.nets(lab)


@pytest.fixture(scope="module")
def addresses(modern, nets):
    more = [text.format(**nets) for text in ADDRESSES]
    with logins.more_addresses(modern, more):
        yield more


@pytest.fixture(scope="module")
def apply(lab, sql, site):
    """apply(list) -> the module's result on the server; then the scenario's list again."""
    site.to_restore = True
    with logins.databases(sql, PROJECTS), logins.peat_access(lab) as run:
        yield run


@pytest.fixture(scope="module")
def log_in(lab, modern):
    with logins.log_in(lab, modern) as run:
        yield run


@pytest.fixture(scope="module")
def offers_tls(sql):
    return logins.offers_tls(sql)


@pytest.fixture(scope="module")
def seen():
    """How many logins and projects were compared, by what the list says of them."""
    return Counter()


def as_inventory(drawn, nets):
    """One drawn list as the module's arguments; half of the networks have names."""
    names = {text: f"net{number}" if number % 2 else text.format(**nets) for number, text in enumerate(NETWORKS)}
    networks = [{"name": name, "addresses": [text.format(**nets)]} for text, name in names.items() if "net" in name]
    entries = dict(zip(PEOPLE, drawn["people"], strict=True))
    projects = []
    for number, (name, (clients, keep_history)) in enumerate(zip(PROJECTS, drawn["kinds"], strict=True)):
        project = {"name": name, "clients": clients, "keep_history": keep_history, "state": drawn["states"][number]}
        for level in ("write", "read"):
            project[level] = [
                {"person": person, "from": sources}
                for person, entry in entries.items()
                # PEAT 2.3 cannot ask for TLS: no list may demand it of somebody who uses it
                if clients != "peat2" or entry["tls"] == "optional"
                if (sources := [names[text] for text, of in entry["levels"].items() if of[number] == level])
            ]
        projects.append(project)
    return {
        "networks": networks,
        "people": [{"name": person, "from": ["192.0.2.1"], "tls": entry["tls"]} for person, entry in entries.items()],
        "projects": projects,
        "allow_anywhere": True,
        "passwords": {person: entry["password"] for person, entry in entries.items()},
    }


def to_try(matrix, person, addresses):
    """The first and the last of the addresses that the same of a person's networks contain."""
    networks = {row.network for row in matrix if row.person == person}
    alike = {}
    for address in addresses:
        inside = frozenset(network for network in networks if contains(network, parse(address)))
        alike.setdefault(inside, []).append(address)
    return [address for group in alike.values() for address in dict.fromkeys((group[0], group[-1]))]


def hold_against_the_list(arguments, log_in, addresses, offers_tls, seen):
    matrix = logins.matrix(arguments)
    projects = {each["name"]: (each["clients"], each["keep_history"]) for each in arguments["projects"]}
    tried, wanted = [], []

    def add(able, **login):
        tried.append(login)
        wanted.append(able)

    for entry in arguments["people"]:
        person, tls = entry["name"], entry["tls"] == "required"
        right = arguments["passwords"][person]
        wrong = next(password for password in PASSWORDS if password != right)
        for address in to_try(matrix, person, addresses):
            able = logins.said(matrix, projects, person, address)
            for name in able or ():
                able[name] = able[name] | {each for each in PACK_HISTORY if "pack" in able[name] and projects[name][1]}
            login = {"user": person, "password": right, "from": address, "tls": tls}
            add(able if offers_tls or not tls else None, **login)
            add(None, **{**login, "password": wrong})
            if tls:
                add(None, **{**login, "tls": False})
    differences = [
        f"{login}: the list says {able}, the server {got}"
        for login, able, got in zip(tried, wanted, log_in(tried, projects, PACK_HISTORY), strict=True)
        if (got not in logins.REFUSED if able is None else got != able)
    ]
    assert not differences, "\n".join(differences)
    seen["refused"] += wanted.count(None)
    seen.update(projects.values())
    for names in itertools.chain.from_iterable(able.values() for able in wanted if able):
        seen["write" if len(names) > 1 else "read" if names else "nothing"] += 1


@settings(
    max_examples=PAIRS,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
@given(pair=st.tuples(lists, lists), flush=st.booleans())
def test_every_address_can_do_what_the_list_says(pair, flush, apply, log_in, addresses, nets, offers_tls, sql, seen):
    apply(NOBODY)
    for drawn in pair:
        arguments = as_inventory(drawn, nets)
        apply(arguments)
        if flush:  # as after a restart, when the server orders grants anew
            sql("FLUSH PRIVILEGES")
        hold_against_the_list(arguments, log_in, addresses, offers_tls, seen)
    assert not apply(arguments)["changed"]


def test_what_was_drawn_means_something(seen):
    """Of everything that the test above compares it has seen a lot."""
    assert min(seen[kind] for kind in ("refused", "nothing", "read", "write")) > 500, seen
    assert min(seen[kind] for kind in KINDS) > 20, seen
