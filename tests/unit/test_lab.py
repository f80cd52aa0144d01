"""The description of a lab: what is refused, with which words, and the matrix a good one gives."""

import ast
import copy
import time

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.parsing.dataloader import DataLoader
from hypothesis import given
from hypothesis import strategies as st
from peat.addresses import ANYWHERE, account_host, contains, parse
from peat.lab import (
    READ,
    WRITE,
    ZEO,
    Access,
    LabError,
    argument_spec,
    level_at,
    load,
    of_backend,
    openings,
    phpmyadmin_problems,
)

GOOD = {
    "networks": [
        {"name": "campus", "addresses": ["192.0.2.0/24", "2001:db8:1::/48"]},
        {"name": "cluster", "addresses": ["198.51.100.16/255.255.255.240"]},
    ],
    "people": [
        {"name": "farrell", "from": ["campus", "203.0.113.7"], "password": "correct-horse-9"},
        {"name": "nielsen", "from": ["campus"]},
        {"name": "pipeline", "from": ["cluster"], "tls": "required"},
    ],
    "projects": [
        {"name": "hewlsample", "clients": "peat2", "write": ["farrell"], "read": ["nielsen"]},
        {"name": "screening", "clients": "relstorage4", "keep_history": False, "write": ["pipeline"]},
    ],
}

NETWORK = "peat_networks, entry 1 (campus): "
PERSON = "peat_people, entry 1 (farrell): "
PROJECT = "peat_projects, entry 1 (hewlsample): "


def changed(path, value):
    """A good description with one value replaced (a path like ``people.0.name``), or removed (...)."""
    description = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    place = description
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    last = int(last) if isinstance(place, list) else last
    if value is ...:
        del place[last]
    elif isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value
    return description


def problems(description, **options):
    with pytest.raises(LabError) as caught:
        load(**description, **options)
    return caught.value.problems


BAD = [
    # the shape of things
    ("networks", None, "peat_networks: ", "make it a list"),
    ("people", {"farrell": {}}, "peat_people: ", "is a mapping: make it a list of entries"),
    ("projects", "hewlsample", "peat_projects: ", "is text: make it a list of entries"),
    ("networks.0", "campus", "peat_networks, entry 1: ", "write '- name: ...' with name, addresses"),
    ("people.0", None, "peat_people, entry 1: ", "is empty: write '- name: ...'"),
    ("projects.0.writ", ["farrell"], PROJECT, "unknown key 'writ' (did you mean 'write'?)"),
    ("people.0.group", "x", PERSON, "unknown key 'group': the keys are name, from, password, password_hash, tls"),
    ("networks.0.addresses", "192.0.2.0/24", NETWORK, "write a list, addresses: [192.0.2.0/24]"),
    ("people.0.from", "campus", PERSON, "write a list, from: [campus]"),
    ("projects.0.write", "farrell", PROJECT, "write a list, write: [farrell]"),
    ("projects.0.read", {"person": "nielsen"}, PROJECT, "read is a mapping: write a list"),
    # names
    ("networks.0.name", ..., "peat_networks, entry 1: ", "has no name: add one"),
    ("people.0.name", "", "peat_people, entry 1: ", "has no name: add one"),
    ("projects.0.name", None, "peat_projects, entry 1: ", "has no name: add one"),
    ("people.0.name", False, "peat_people, entry 1: ", "the name is False, not text to YAML: put it in quotes"),
    ("projects.0.name", 2019, "peat_projects, entry 1: ", "the name is 2019, not text to YAML: put it in quotes"),
    (
        "networks.1.name",
        "campus",
        "peat_networks, entry 2 (campus): ",
        "has the name of peat_networks, entry 1 (campus)",
    ),
    ("people.1.name", "Farrell", "peat_people, entry 2 (Farrell): ", "rename or remove one of the two"),
    (
        "projects.1.name",
        "HewlSample",
        "peat_projects, entry 2 (HewlSample): ",
        "upper and lower case count as the same",
    ),
    ("networks.1.name", "192.0.2.9", "peat_networks, entry 2 (192.0.2.9): ", "is no address: rename it"),
    ("networks.1.name", "a/b", "peat_networks, entry 2 (a/b): ", "rename it"),
    ("people.0.name", "../farrell", "peat_people, entry 1 (../farrell): ", "use letters, digits and _ . - only"),
    ("people.0.name", "o'farrell", "peat_people, entry 1 (o'farrell): ", "use letters, digits and _ . - only"),
    ("people.0.name", "jürgen", "peat_people, entry 1 (jürgen): ", "use letters, digits and _ . - only"),
    ("people.0.name", "farrell\n", "peat_people, entry 1 (farrell\n): ", "use letters, digits and _ . - only"),
    ("people.0.name", "Root", "peat_people, entry 1 (Root): ", "choose another name"),
    ("people.0.name", "mysql.sys", "peat_people, entry 1 (mysql.sys): ", "choose another name"),
    (
        "people.0.name",
        "f" * 33,
        f"peat_people, entry 1 ({'f' * 33}): ",
        "has 33 characters, the server takes 32: shorten it",
    ),
    ("projects.0.name", "h" * 65, f"peat_projects, entry 1 ({'h' * 65}): ", "name has at most 64: shorten it"),
    ("projects.0.name", "h_" * 22, "peat_projects, entry 1 (", "a database name has at most 64: shorten it"),
    ("projects.0.name", "mysql", "peat_projects, entry 1 (mysql): ", "choose another name"),
    ("projects.0.name", "Information_Schema", "peat_projects, entry 1 (Information_Schema): ", "choose another name"),
    ("projects.0.name", "peat_server", "peat_projects, entry 1 (peat_server): ", "choose another name"),
    ("projects.0.name", "test", "peat_projects, entry 1 (test): ", "choose another name"),
    ("projects.0.name", "test_2", "peat_projects, entry 1 (test_2): ", "choose another name"),
    ("projects.0.name", "#mysql50#x", "peat_projects, entry 1 (#mysql50#x): ", "use letters, digits and _ $ - only"),
    ("projects.0.name", "my project", "peat_projects, entry 1 (my project): ", "use letters, digits and _ $ - only"),
    ("projects.0.name", "-x", "peat_projects, entry 1 (-x): ", "begin and end with a letter, a digit or _"),
    ("projects.0.name", "2019", "peat_projects, entry 1 (2019): ", "cannot be digits only: add a letter"),
    # addresses
    ("networks.0.addresses", ..., NETWORK, "addresses is missing or empty"),
    ("networks.0.addresses", [], NETWORK, "addresses is missing or empty"),
    ("people.0.from", ..., PERSON, "from is missing or empty"),
    ("people.0.from", [], PERSON, "from is missing or empty"),
    ("networks.0.addresses.0", "192.0.2.0/40", NETWORK, "'192.0.2.0/40' is not an address"),
    ("networks.0.addresses.0", "192.0.2.9/24", NETWORK, "write 192.0.2.0/24"),
    ("networks.0.addresses.0", "2001:db8:1::/56", NETWORK, "write the wider 2001:db8:1::/48"),
    ("networks.0.addresses.0", "192.0.2.%", NETWORK, "write 192.0.2.0/24"),
    ("networks.0.addresses.0", "0.0.0.0/0", NETWORK, "write '%', which needs peat_allow_anywhere: true"),
    ("networks.0.addresses.0", "::/0", NETWORK, "write '%', which needs peat_allow_anywhere: true"),
    ("networks.0.addresses.0", "%", NETWORK, "set peat_allow_anywhere: true"),
    ("networks.0.addresses.0", "pc7.example.org", NETWORK, "write the IP address"),
    ("networks.0.addresses.0", 120070, NETWORK, "an address is 120070, not text to YAML: put it in quotes"),
    ("people.0.from.0", "campuss", PERSON, "unknown network 'campuss' (did you mean 'campus'?)"),
    ("people.0.from.0", "localhost.localdomain", PERSON, "is a host name"),
    ("people.0.from.0", "%", PERSON, "set peat_allow_anywhere: true"),
    ("people.0.from.0", ["campus"], PERSON, "an address is a list, not text to YAML"),
    # values
    ("people.0.password", "", PERSON, "the password is empty: write one or leave it out and one is generated"),
    ("people.0.password", "hunter2", PERSON, "the password has fewer than 12 characters: lengthen it"),
    ("people.0.password", 123456789012, PERSON, "the password is not text to YAML: put it in quotes"),
    ("people.0.password", "correct-horse-9\n", PERSON, "characters that clients send differently"),
    ("people.0.password", "pässword-longer", PERSON, "characters that clients send differently"),
    ("people.0.tls", "yes", PERSON, "tls is 'yes': write one of offered, required"),
    ("people.0.tls", True, PERSON, "tls is True: write one of offered, required"),
    ("projects.0.clients", ..., PROJECT, "clients is missing: write one of peat2, relstorage4"),
    ("projects.0.clients", "relstorage3", PROJECT, "clients is 'relstorage3': write one of peat2, relstorage4"),
    ("projects.0.state", "gone", PROJECT, "state is 'gone': write one of present, frozen, absent"),
    ("projects.0.keep_history", "yes", PROJECT, "keep_history is 'yes': write true or false"),
    ("projects.0.keep_history", False, PROJECT, "PEAT opens only databases that keep history"),
    # who reaches what
    ("projects.0.write", ["farell"], PROJECT, "unknown person 'farell' (did you mean 'farrell'?)"),
    ("projects.0.read", [7], PROJECT, "read has an item that is 7: write a person's name"),
    ("projects.0.read", [None], PROJECT, "read has an item that is empty: write a person's name"),
    ("projects.0.read", [{"from": ["192.0.2.1"]}], PROJECT, "write a person's name or {person: NAME, from: [ADDRESS]}"),
    (
        "projects.0.read",
        [{"person": "nielsen", "form": ["192.0.2.1"]}],
        "peat_projects, entry 1 (hewlsample), read of 'nielsen': ",
        "unknown key 'form' (did you mean 'from'?)",
    ),
    (
        "projects.0.read",
        [{"person": "nielsen", "from": ["192.0.2.1/8"]}],
        "peat_projects, entry 1 (hewlsample), read of 'nielsen': ",
        "write 192.0.0.0/8",
    ),
    (
        "projects.0.read",
        [{"person": "nielsen", "from": []}],
        "peat_projects, entry 1 (hewlsample), read of 'nielsen': ",
        "from is missing or empty",
    ),
    ("projects.0.read", ["farrell"], PROJECT, "'farrell' is in write and in read from 192.0.2.0/24: remove one"),
    (
        "projects.0.read",
        [{"person": "farrell", "from": ["203.0.113.7/255.255.255.255"]}],
        PROJECT,
        "'farrell' is in write and in read from 203.0.113.7: remove one",
    ),
    ("projects.0.write", ["farrell", "farrell"], PROJECT, "write lists 'farrell' twice from 192.0.2.0/24"),
    (
        "projects.0.read",
        ["nielsen", {"person": "nielsen", "from": ["2001:DB8:1:0::/48"]}],
        PROJECT,
        "read lists 'nielsen' twice from 2001:db8:1::/48",
    ),
    ("projects.0.read", ["pipeline"], PROJECT, "'pipeline' has tls: required, but PEAT 2.3 cannot ask for TLS"),
]


def test_the_good_description_is_good():
    load(**GOOD)


@pytest.mark.parametrize(
    ("path", "value", "entry", "remedy"), BAD, ids=[f"{path}={value!r}"[:60] for path, value, *_ in BAD]
)
def test_refused_naming_entry_and_remedy(path, value, entry, remedy):
    found = problems(changed(path, value))
    assert [problem for problem in found if problem.startswith(entry) and remedy in problem], found


def test_password_must_not_be_the_name():
    description = changed("people.0.name", "farrell-of-dublin")
    description["people"][0]["password"] = "farrell-of-dublin"
    description["projects"][0]["write"] = ["farrell-of-dublin"]
    assert "the password is the person's name" in problems(description)[0]


def test_allow_anywhere_must_be_a_boolean():
    # -e peat_allow_anywhere=false is the text 'false', which would count as true.
    description = changed("people.0.from", ["%"])
    found = problems(description, allow_anywhere="false")
    assert found[0].startswith("peat_allow_anywhere: 'false' is not a boolean")
    assert """-e '{"peat_allow_anywhere": true}'""" in found[0]
    assert any("set peat_allow_anywhere: true" in problem for problem in found)


def test_all_problems_are_reported_at_once():
    description = changed("networks.0.addresses.0", "192.0.2.9/24")
    description["people"][1]["tls"] = "maybe"
    description["projects"][0]["read"] = ["nobody"]
    description["projects"][1]["clients"] = "zeo"
    found = problems(description)
    assert [problem.split(":")[0] for problem in found] == [
        "peat_networks, entry 1 (campus)",
        "peat_people, entry 2 (nielsen)",
        "peat_projects, entry 1 (hewlsample)",
        "peat_projects, entry 2 (screening)",
    ]
    with pytest.raises(LabError, match=r"has 4 problems:\n- peat_networks.*\n- peat_people"):
        load(**description)


def test_one_mistake_is_one_problem():
    for path, value in (
        ("networks.0.addresses.0", "192.0.2.9/24"),
        ("people.0.password", "short"),
        ("projects.0.clients", "zeo"),
        ("projects.0.state", "gone"),
    ):
        assert len(problems(changed(path, value))) == 1


yaml_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["campus", "farrell", "%"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "from", "person", "write", "password", "addresses"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(st.sampled_from(sorted({path for path, *_ in BAD})), yaml_values)
def test_whatever_yaml_gives_is_loaded_or_refused(path, value):
    try:
        load(**changed(path, value))
    except LabError as error:
        assert all(problem.startswith("peat_") for problem in error.problems)


SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("people.0.password", SECRET),
        ("people.0.password", SECRET + "-long-enough\n"),
        ("people.0.password", {"value": SECRET}),
        ("people.0.password", [SECRET]),
        ("people.0", [{"password": SECRET}]),
        ("people", {"farrell": {"password": SECRET}}),
        ("projects.0.write", [{"name": "farrell", "password": SECRET}]),
        ("projects.0.write", {"password": SECRET}),
        ("people.0.tls", {"password": SECRET}),
        ("people.0.name", {"password": SECRET}),
        ("networks.0.addresses", {"password": SECRET}),
    ],
)
def test_no_message_repeats_a_password(path, value):
    assert SECRET not in "\n".join(problems(changed(path, value)))


def test_no_text_of_a_lab_has_a_password():
    lab = load(**GOOD)
    assert lab.people["farrell"].password == "correct-horse-9"
    assert "correct-horse-9" not in repr(lab)


def test_user_name_length_follows_the_flavour():
    description = changed("people.3", {"name": "n" * 80, "from": ["campus"]})
    assert load(**description, flavour="mariadb").people["n" * 80]
    assert "the server takes 32" in problems(description, flavour="mysql")[0]
    description["people"][3]["name"] += "n"
    assert "the server takes 80" in problems(description, flavour="mariadb")[0]


def rows(lab):
    return [(row.project, row.person, account_host(row.network), row.level) for row in lab.matrix]


def test_matrix():
    assert rows(load(**GOOD)) == [
        ("hewlsample", "farrell", "192.0.2.0/255.255.255.0", "write"),
        ("hewlsample", "farrell", "2001:db8:1:%", "write"),
        ("hewlsample", "farrell", "203.0.113.7", "write"),
        ("hewlsample", "nielsen", "192.0.2.0/255.255.255.0", "read"),
        ("hewlsample", "nielsen", "2001:db8:1:%", "read"),
        ("screening", "pipeline", "198.51.100.16/255.255.255.240", "write"),
    ]


def test_defaults():
    lab = load(**changed("projects.0.read", ...))
    person, project = lab.people["nielsen"], lab.projects["hewlsample"]
    assert (person.password, person.tls) == (None, "offered")
    assert (project.keep_history, project.state) == (True, "present")


def test_a_project_nobody_can_reach_is_fine():
    lab = load(**changed("projects.2", {"name": "empty", "clients": "peat2"}))
    assert "empty" in lab.projects


def test_an_item_may_name_other_addresses():
    lab = load(
        **changed(
            "projects.0.read", [{"person": "nielsen", "from": ["cluster", "203.0.113.9"]}, {"person": "pipeline"}][:1]
        )
    )
    assert [row[2:] for row in rows(lab) if row[1] == "nielsen"] == [
        ("198.51.100.16/255.255.255.240", "read"),
        ("203.0.113.9", "read"),
    ]


def test_an_item_without_addresses_is_the_person():
    assert rows(load(**changed("projects.0.read", [{"person": "nielsen"}]))) == rows(load(**GOOD))


def test_addresses_that_networks_share_count_once():
    description = changed("networks.2", {"name": "all", "addresses": ["192.0.2.0/24", "198.51.100.16/28"]})
    description["people"][1]["from"] = ["campus", "all", "192.0.2.0/255.255.255.0"]
    hosts = [row[2] for row in rows(load(**description)) if row[1] == "nielsen"]
    assert hosts == ["192.0.2.0/255.255.255.0", "2001:db8:1:%", "198.51.100.16/255.255.255.240"]


def test_frozen_makes_readers_of_writers():
    frozen = load(**changed("projects.0.state", "frozen"))
    assert [row[:3] for row in rows(frozen)] == [row[:3] for row in rows(load(**GOOD))]
    assert {row.level for row in frozen.matrix if row.project == "hewlsample"} == {READ}


def test_absent_gives_no_access_and_is_still_checked():
    lab = load(**changed("projects.0.state", "absent"))
    assert lab.projects["hewlsample"].state == "absent"
    assert {row.project for row in lab.matrix} == {"screening"}
    description = changed("projects.0.state", "absent")
    description["projects"][0]["write"] = ["nobody"]
    assert problems(description)


def test_tls_is_no_matter_in_an_absent_project():
    description = changed("projects.0.read", ["pipeline"])
    description["projects"][0]["state"] = "absent"
    load(**description)


def test_the_most_specific_entry_holds():
    description = changed("projects.0.read", [{"person": "farrell", "from": ["192.0.2.16/28", "2001:db8:1:2::/64"]}])
    lab = load(**description)
    assert [level_at(lab.matrix, address) for address in ("192.0.2.1", "192.0.2.17", "203.0.113.7", "203.0.113.8")] == [
        WRITE,
        READ,
        WRITE,
        None,
    ]
    assert level_at(lab.matrix, "2001:db8:1::1") == WRITE
    assert level_at(lab.matrix, "2001:db8:1:2::1") == READ


def test_anywhere_is_the_least_specific():
    rows_ = [Access("p", "n", ANYWHERE, READ), Access("p", "n", parse("192.0.2.0/24"), WRITE)]
    assert [level_at(rows_, address) for address in ("192.0.2.1", "203.0.113.1", "2001:db8::1")] == [WRITE, READ, READ]


ZEO_PROJECT = {"name": "titration", "backend": "zeo", "clients": "peat2", "write": ["farrell"]}


@pytest.mark.parametrize(
    ("values", "what", "remedy"),
    [
        ({"backend": "sqlite"}, "backend is 'sqlite'", "write one of relstorage, zeo"),
        ({"clients": "relstorage4"}, "clients is 'relstorage4'", "write one of peat2, current"),
        ({"backend": "relstorage", "clients": "current"}, "clients is 'current'", "write one of peat2, relstorage4"),
        ({"keep_history": False}, "always keeps history", "remove keep_history"),
        ({"read": ["nielsen"]}, "read lists 'nielsen'", "backend: relstorage"),
        ({"state": "frozen"}, "could not open it at all", "clients: current"),
        ({"name": "Titration"}, "as lower case", "small letters"),
        ({"name": "a$b"}, "as a variable", "small letters"),
    ],
)
def test_what_zeo_cannot_keep_is_refused(values, what, remedy):
    (problem,) = problems(changed("projects.2", {**ZEO_PROJECT, **values}))
    assert problem.startswith("peat_projects, entry 3 (")
    assert what in problem and remedy in problem


def test_a_frozen_zeo_project_may_have_readers():
    frozen = {**ZEO_PROJECT, "clients": "current", "state": "frozen", "read": ["nielsen"]}
    lab = of_backend(load(**changed("projects.2", frozen)), ZEO)
    assert {(entry.person, entry.level) for entry in lab.matrix} == {("farrell", READ), ("nielsen", READ)}


def test_each_backend_has_its_own_projects_and_everybody():
    lab = load(**changed("projects.2", ZEO_PROJECT))
    zeo, relstorage = of_backend(lab, ZEO), of_backend(lab, "relstorage")
    assert set(zeo.projects) == {"titration"} == {entry.project for entry in zeo.matrix}
    assert set(relstorage.projects) == {"hewlsample", "screening"}
    assert zeo.matrix + relstorage.matrix == lab.matrix[-3:] + lab.matrix[:-3]
    assert zeo.people == lab.people


def test_openings_are_collapsed_and_only_of_people_with_access():
    description = changed("networks.2", {"name": "halves", "addresses": ["198.51.100.0/28", "198.51.100.20"]})
    description["people"] += [{"name": "half", "from": ["halves"]}, {"name": "idle", "from": ["203.0.113.200"]}]
    description["projects"][1]["read"] = ["half"]
    assert openings(load(**description)) == ["192.0.2.0/24", "198.51.100.0/27", "203.0.113.7/32", "2001:db8:1::/48"]


def test_openings_of_an_empty_lab_and_of_the_whole_world():
    assert openings(load([], [], [])) == []
    description = changed("people.1.from", ["%"])
    assert openings(load(**description, allow_anywhere=True)) == ["%"]


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(24, 32)), max_size=12), st.integers(0, 255))
def test_openings_admit_exactly_who_has_access(networks, client):
    people = [
        {"name": f"p{number}", "from": [f"192.0.2.{last >> (32 - length) << (32 - length)}/{length}"]}
        for number, (last, length) in enumerate(networks)
    ]
    project = {"name": "shared", "clients": "peat2", "read": [person["name"] for person in people]}
    lab = load([], people, [project])
    address = parse(f"192.0.2.{client}")
    opened = any(contains(parse(opening), address) for opening in openings(lab))
    assert opened == (level_at(lab.matrix, f"192.0.2.{client}") is not None)


def test_modules_see_the_same_lab_as_filters():
    """Ansible converts and completes module parameters; that must not change what is described."""
    validated = ArgumentSpecValidator(argument_spec()).validate({**copy.deepcopy(GOOD), "allow_anywhere": "no"})
    assert validated.error_messages == []
    parameters = validated.validated_parameters
    assert load(**parameters) == load(**GOOD)


def test_argument_spec_hides_passwords():
    validator = ArgumentSpecValidator(argument_spec())
    assert validator.validate(copy.deepcopy(GOOD))._no_log_values == {"correct-horse-9"}


def test_thousands_of_entries_load_in_about_a_second():
    count = 3000
    networks = [{"name": f"net{n}", "addresses": [f"10.{n >> 8}.{n & 255}.0/24"]} for n in range(count)]
    people = [{"name": f"person{n}", "from": [f"net{n}", f"172.16.{n >> 8}.{n & 255}"]} for n in range(count)]
    projects = [
        {"name": f"project{n}", "clients": "peat2", "write": [f"person{(n + k) % count}" for k in range(5)]}
        for n in range(count)
    ]
    started = time.process_time()
    lab = load(networks, people, projects)
    right = time.process_time() - started
    for person in people:
        person["from"] = ["nett"]
    for project in projects:
        project["read"] = ["nobody"]
    started = time.process_time()
    assert len(problems({"networks": networks, "people": people, "projects": projects})) == 2 * count
    wrong = time.process_time() - started
    assert len(lab.matrix) == 10 * count
    assert max(right, wrong) < 4  # 0.2 s where this was written; quadratic work takes minutes


def test_pure_code_imports_no_ansible(request):
    for path in (request.config.rootpath / "module_utils/peat").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            assert not [name for name in names if name.split(".")[0] == "ansible"], path.name


# The account with which PEAT makes databases, and limits


def test_who_makes_databases_has_addresses_and_a_prefix():
    lab = load(**GOOD, admin={"from": ["campus", "203.0.113.99"], "prefix": "new", "password": "long enough one"})
    assert lab.admin.prefix == "new"
    assert lab.admin.networks == (*(parse(text) for text in GOOD["networks"][0]["addresses"]), parse("203.0.113.99"))
    assert "203.0.113.99/32" in openings(lab)
    assert load(**GOOD, admin={}).admin is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prefix": "ne"}, "prefix is 'ne': write three to 60 letters and digits"),
        ({"prefix": "n" * 61}, "write three to 60 letters and digits"),
        ({"prefix": "new_"}, "prefix is 'new_': write three to 60 letters"),
        ({"prefix": "new%"}, "prefix is 'new%': write three to 60 letters"),
        ({"prefix": "Peat"}, "prefix is 'Peat', and the server's own peat_server begins so"),
        ({"prefix": "mys"}, "prefix is 'mys', and the server's own mysql begins so"),
        ({"from": []}, "from is missing or empty"),
        ({"from": ["kampus"]}, "did you mean 'campus'?"),
        ({"password": "short"}, "the password has fewer than 12 characters"),
        ({"name": "root"}, "has the unknown key 'name'"),
    ],
)
def test_a_wrong_account_for_databases_is_refused(change, words):
    (problem,) = problems(GOOD, admin={"from": ["campus"], "prefix": "new", **change})
    assert problem.startswith("peat_admin: ")
    assert words in problem


def test_nobody_has_the_name_of_the_account_for_databases():
    (problem,) = problems(
        changed("people.0.name", "peatadmin") | {"projects": []}, admin={"from": ["campus"], "prefix": "new"}
    )
    assert problem == "peat_admin: peatadmin is in peat_people as well: rename that person"


# Administrators, who log in to phpMyAdmin


def test_administrators_are_no_people():
    lab = load(**GOOD, administrators=[{"name": "keeper"}, {"name": "second.keeper", "password": "long enough one"}])
    assert lab.administrators == ("keeper", "second.keeper")
    assert not {"keeper", "second.keeper"} & lab.people.keys()
    assert of_backend(lab, "relstorage").administrators == lab.administrators
    assert of_backend(lab, "zeo").administrators == ()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "Farrell"}, "has the name of peat_people, entry 1 (farrell)"),
        ({"name": "peatadmin"}, "is the account of peat_admin"),
        ({"name": "root"}, "is an account name of the server itself"),
        ({"name": "two words"}, "use letters, digits and _ . - only"),
        ({"name": "KEEPER"}, "has the name of peat_administrators, entry 1 (keeper)"),
        ({"name": "x", "password": "short"}, "the password has fewer than 12 characters"),
        ({"name": "x", "from": ["campus"]}, "has the unknown key 'from'"),
        ({}, "has no name"),
    ],
)
def test_a_wrong_administrator_is_refused(entry, words):
    (problem,) = problems(GOOD, administrators=[{"name": "keeper"}, entry])
    assert problem.startswith("peat_administrators, entry 2")
    assert words in problem


def test_phpmyadmin_without_what_it_needs_is_refused():
    assert phpmyadmin_problems([{"name": "keeper"}], ["campus"], "offered") == []
    nobody, nowhere, in_clear = phpmyadmin_problems([], [], "off")
    assert "peat_administrators" in nobody and "peat_admin_networks" in nowhere and "peat_tls" in in_clear


@pytest.mark.parametrize("number", [0, 1, 100_000, DataLoader().load("24")])
def test_a_person_has_a_limit(number):
    assert load(**changed("people.0.connections", number)).people["farrell"].connections == number
    assert load(**GOOD).people["farrell"].connections is None


@pytest.mark.parametrize("value", [-1, 100_001, "10", True, 1.5])
def test_a_wrong_limit_is_refused(value):
    (problem,) = problems(changed("people.0.connections", value))
    assert problem.startswith(PERSON + f"connections is {value!r}: write a number")
