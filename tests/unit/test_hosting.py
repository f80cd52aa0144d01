"""Hosted projects: one description of a lab from its lists and many small files, and what a request makes of it."""

from __future__ import annotations

import copy

import pytest
import yaml
from peat import hosting

LISTS = {
    "networks": [{"name": "campus", "addresses": ["192.0.2.0/24"]}],
    "people": [{"name": "farrell", "from": ["campus"]}, {"name": "guest", "from": ["198.51.100.7"]}],
    "projects": [{"name": "hewlsample", "clients": "peat2", "write": ["farrell"]}],
    "allow_anywhere": False,
}
REQUEST = {
    "project": "titration",
    "contact": "Ada Lovelace <ada@example.org>",
    "clients": "peat2",
    "people": [{"name": "ada", "from": ["203.0.113.9"]}, {"name": "guest", "level": "read"}],
}


def changed(**values):
    value = {**copy.deepcopy(REQUEST), **values}
    return {key: item for key, item in value.items() if item is not None}


def hosted(*requests):
    return {hosting.variable_of(each["project"]): each for each in requests}


def ask(folder, asked, there=None, **options):
    return hosting.request(asked, LISTS, there or {}, str(folder), **options)


# One description


def test_a_hosted_project_is_like_one_of_the_lists():
    lab = hosting.merge(LISTS, hosted(changed(clients="relstorage4", keep_history=False, state="frozen")))
    assert lab["networks"] == LISTS["networks"]
    assert lab["people"] == [*LISTS["people"], {"name": "ada", "from": ["203.0.113.9"]}]
    assert lab["projects"][1:] == [
        {
            "name": "titration",
            "clients": "relstorage4",
            "keep_history": False,
            "state": "frozen",
            "write": ["ada"],
            "read": ["guest"],
        }
    ]
    assert hosting.problems(lab) == []


def test_nothing_hosted_changes_nothing():
    lab = hosting.merge(LISTS, {})
    assert {key: lab[key] for key in LISTS} == LISTS


def test_administrators_have_passwords_like_people():
    administrators = [{"name": "keeper"}, {"name": "other", "password": "long enough one"}]
    lab = hosting.merge({**LISTS, "administrators": administrators}, {})
    assert lab["people"] == LISTS["people"] and lab["administrators"] == administrators
    assert lab["logins"][2:] == [
        {"name": "keeper", "from": []},
        {"name": "other", "from": [], "password": "long enough one"},
    ]
    assert hosting.load(lab).administrators == ("keeper", "other")
    assert hosting.problems(hosting.merge({**LISTS, "administrators": "keeper"}, {})) == [
        "peat_administrators: is text: make it a list of entries ('- name: ...')"
    ]


@pytest.mark.parametrize("given", [{}, {"password": "long enough one"}])
def test_who_makes_databases_has_a_password_like_people(given):
    admin = {"from": ["campus"], "prefix": "lab", **given}
    lab = hosting.merge({**LISTS, "admin": admin}, {})
    assert lab["people"] == LISTS["people"] and lab["admin"] == admin
    assert lab["logins"] == [*LISTS["people"], {"name": "peatadmin", "from": ["campus"], **given}]


def test_addresses_may_be_said_once_for_all_who_are_new():
    people = [{"name": "ada"}, {"name": "grace", "level": "read"}, {"name": "guest"}]
    lab = hosting.merge(LISTS, hosted(changed(people=people, **{"from": ["campus", "203.0.113.9"]})))
    assert lab["people"][2:] == [{"name": name, "from": ["campus", "203.0.113.9"]} for name in ("ada", "grace")]
    assert hosting.problems(lab) == []


def test_a_person_of_two_hosted_projects_is_one_person():
    other = changed(project="sorption", people=[{"name": "ada", "from": ["203.0.113.9/32"]}])
    lab = hosting.merge(LISTS, hosted(REQUEST, other))
    assert [person["name"] for person in lab["people"]] == ["farrell", "guest", "ada"]
    assert hosting.problems(lab) == []


def test_a_hundred_hosted_projects_are_one_lab():
    requests = [changed(project=f"p{n}", people=[{"name": f"u{n}", "from": [f"10.0.0.{n}"]}]) for n in range(100)]
    lab = hosting.merge(LISTS, hosted(*requests))
    assert hosting.problems(lab) == []
    assert len(hosting.load(lab).projects) == 101


@pytest.mark.parametrize("names", [("a-b", "a_b"), ("a$b", "a-b"), ("titration", "Titration")])
def test_every_project_has_a_variable_of_its_own(names):
    variables = {hosting.variable_of(name) for name in names}
    assert len(variables) == len(names)
    assert all(variable.isidentifier() and variable.startswith("peat_hosted_") for variable in variables)


def test_a_copied_file_that_kept_its_variable_is_found():
    lab = hosting.merge(LISTS, {"peat_hosted_titration": changed(project="sorption")})
    (problem,) = hosting.problems(lab)
    assert problem.startswith(
        "peat_hosted_titration: describes the project 'sorption', whose variable is peat_hosted_sorption"
    )


@pytest.mark.parametrize("value", [None, [], "text", {"project": 5}, {"people": {}}, {"people": [None, "ada"]}])
def test_whatever_a_variable_holds_is_a_problem_by_name(value):
    found = hosting.problems(hosting.merge(LISTS, {"peat_hosted_x": value}))
    assert found
    assert all(problem.startswith("peat_hosted_x") for problem in found)


def test_lists_of_wrong_types_are_still_named():
    found = hosting.problems(hosting.merge({**LISTS, "people": "farrell", "projects": None}, hosted(REQUEST)))
    assert any(problem.startswith("peat_people: is text") for problem in found)
    assert any(problem.startswith("peat_projects: is empty") for problem in found)


# A request


def test_a_request_becomes_a_small_file(tmp_path):
    made = ask(tmp_path / "group_vars/mysql", REQUEST)
    assert (made.problems, made.write) == ((), True)
    assert made.path == str(tmp_path / "group_vars/mysql/project_titration.yml")
    assert yaml.safe_load(made.text) == {made.variable: REQUEST} == {made.variable: made.value}
    assert len(made.text.splitlines()) == 8


def test_the_same_request_again_writes_nothing(tmp_path):
    there = {hosting.variable_of("titration"): REQUEST}
    (tmp_path / "project_titration.yml").write_text("whatever comments people add\n")
    made = ask(tmp_path, REQUEST, there)
    assert (made.problems, made.write) == ((), False)


def test_a_request_does_not_change_somebodys_project_by_the_way(tmp_path):
    (tmp_path / "project_titration.yml").touch()
    there, other = hosted(REQUEST), changed(contact="Eve", people=[{"name": "eve", "from": ["203.0.113.66"]}])
    (problem,) = ask(tmp_path, other, there).problems
    assert "hosted already, as Ada Lovelace <ada@example.org> asked for" in problem
    made = ask(tmp_path, other, there, replace=True)
    assert (made.problems, made.write, made.value) == ((), True, other)


def test_a_person_known_from_another_hosted_project_brings_the_addresses_along(tmp_path):
    other = changed(project="sorption", people=[{"name": "ada"}, {"name": "guest"}])
    made = ask(tmp_path, other, hosted(REQUEST))
    assert made.value["people"] == [{"name": "ada", "from": ["203.0.113.9"]}, {"name": "guest"}]
    # ... so that each of the two files can go.
    assert hosting.problems(hosting.merge(LISTS, hosted(made.value))) == []


PROBLEMS = [
    ({"project": "hewlsample"}, "the request (hewlsample): has the name of peat_projects, entry 1 (hewlsample)"),
    ({"project": "HewlSample"}, "the request (HewlSample): has the name of peat_projects, entry 1 (hewlsample)"),
    ({"project": "Sorption"}, "the request (Sorption): has the name of peat_hosted_sorption (sorption)"),
    ({"project": "mysql"}, "the request (mysql): is a database of the server itself"),
    ({"project": "../evil"}, "the request (../evil): a project's name is a database name"),
    ({"project": 2019}, "the request has no project, or one that is not text"),
    ({"project": None}, "the request has no project"),
    ({"contact": None}, "the request: contact is missing"),
    ({"contact": "Ada\nEve"}, "the request: contact is missing"),
    ({"clients": None}, "the request (titration): clients is missing"),
    ({"clients": "peat3"}, "the request (titration): clients is 'peat3'"),
    ({"keep_history": False}, "the request (titration): keep_history: false with clients: peat2"),
    ({"state": "absent"}, "there is no hosted project titration to be absent"),
    ({"backend": "zeo"}, "the request: has backend: zeo, but what is hosted is a database"),
    ({"colour": "red"}, "the request: has the unknown key 'colour'"),
    ({"people": []}, "the request: people is missing, empty or no list"),
    ({"people": "ada"}, "the request: people is missing, empty or no list"),
    ({"people": [{"from": ["203.0.113.9"]}]}, "the request, person 1: has no name"),
    ({"people": [{"name": "eve"}]}, "the request, person 1 (eve): is not known in this lab"),
    ({"people": [{"name": "eve", "from": ["%"]}]}, "the request (eve): '%' opens the server to every address"),
    ({"people": [{"name": "eve", "from": ["192.0.2.300"]}]}, "the request (eve): '192.0.2.300' is not an address"),
    ({"people": [{"name": "eve", "from": ["campos"]}]}, "did you mean 'campus'?"),
    ({"people": [{"name": "root", "from": ["203.0.113.9"]}]}, "the request (root): is an account name of the server"),
    ({"people": [{"name": "Guest", "from": ["203.0.113.9"]}]}, "the request (Guest): has the name of peat_people"),
    ({"people": [{"name": "guest", "from": ["203.0.113.9"]}]}, "other addresses in peat_people (198.51.100.7)"),
    ({"people": [{"name": "guest", "tls": "required"}]}, "person 1 (guest): has another tls in peat_people"),
    ({"people": [{"name": "guest", "level": "admin"}]}, "person 1 (guest): level is neither write nor read"),
    ({"people": [{"name": "guest", "password": "a-fine-password"}]}, "(guest): has the unknown key 'password'"),
    ({"people": [{"name": "bob", "from": ["203.0.113.10"]}]}, "works from other addresses in peat_hosted_sorption"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "problem"), PROBLEMS, ids=[problem[:60] for _values, problem in PROBLEMS])
def test_a_wrong_request_is_refused_with_its_entry(tmp_path, values, problem):
    there = hosted(changed(project="sorption", people=[{"name": "bob", "from": ["203.0.113.11"]}]))
    made = ask(tmp_path, changed(**values), there)
    assert [text for text in made.problems if problem in text], made.problems
    assert not made.write


def test_every_problem_is_told_at_once(tmp_path):
    people = [{"name": "eve"}, {"name": "root", "from": ["%"]}]
    made = ask(tmp_path, changed(project="mysql", contact=None, clients="peat3", people=people))
    for text in ("contact", "(eve)", "(root): '%'", "(root): is an account", "(mysql): is a database", "'peat3'"):
        assert [problem for problem in made.problems if text in problem], text


@pytest.mark.parametrize("asked", [None, [], "text"])
def test_what_is_no_mapping_is_no_request(tmp_path, asked):
    assert ask(tmp_path, asked).problems[0].startswith("the request is no mapping")


def test_a_file_that_ansible_would_no_longer_read_is_named(tmp_path):
    (tmp_path / "mysql.yml").write_text("mysql_port: 3306\n")
    (problem,) = ask(tmp_path / "mysql", REQUEST).problems
    assert f"does not read {tmp_path}/mysql.yml besides the folder" in problem


def test_a_file_in_the_way_is_not_overwritten(tmp_path):
    (tmp_path / "project_titration.yml").write_text("notes: of somebody\n")
    (problem,) = ask(tmp_path, REQUEST).problems
    assert "move it away" in problem
    (problem,) = ask(tmp_path / "else", changed(contact="Eve"), hosted(REQUEST), replace=True).problems
    assert "it is in another file of the inventory" in problem
