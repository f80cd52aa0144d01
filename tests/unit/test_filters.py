"""What the playbooks ask of the lab's description."""

import datetime
import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from peat import pki

ROOT = pathlib.Path(__file__).parents[2]
LISTS = {
    "allow_anywhere": False,
    "networks": [{"name": "campus", "addresses": ["192.0.2.0/25", "192.0.2.128/25", "2001:db8:1::/48"]}],
    "people": [
        {"name": "farrell", "from": ["campus"], "password": "correct-horse-9"},
        {"name": "nielsen", "from": ["198.51.100.7"]},
        {"name": "idle", "from": ["203.0.113.9"]},
    ],
}
PROJECTS = [
    {"name": "hewlsample", "clients": "peat2", "write": ["farrell"], "read": ["nielsen"]},
    {"name": "titration", "clients": "peat2", "write": ["nielsen"]},
]


def lab(filters, projects, **hosted):
    """The lab as the playbooks have it."""
    return filters["peat_lab"]({**LISTS, "projects": projects}, hosted)


@pytest.fixture(scope="module")
def filters():
    spec = importlib.util.spec_from_file_location("peat_filters", ROOT / "filter_plugins/peat.py")
    plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
    return plugin.FilterModule().filters()


def test_problems(filters):
    assert filters["peat_problems"](lab(filters, PROJECTS)) == []
    (problem,) = filters["peat_problems"](lab(filters, [{**PROJECTS[0], "clients": "zeo"}]))
    assert problem.startswith("peat_projects, entry 1 (hewlsample): clients is 'zeo'")


def test_openings(filters):
    assert filters["peat_openings"](lab(filters, PROJECTS), port=8080) == [
        {"port": 8080, "sources": ["192.0.2.0/24", "198.51.100.7/32", "2001:db8:1::/48"]}
    ]


def test_a_port_nobody_may_use_is_still_listed(filters):
    # Left out, the firewall would not know that it has to refuse everybody there.
    assert filters["peat_openings"](lab(filters, []), port="3306") == [{"port": 3306, "sources": []}]


def test_a_moving_server_is_guarded_at_both_ports(filters):
    openings = filters["peat_openings"](lab(filters, PROJECTS), port=8081, moves_from=8080)
    assert [opening["port"] for opening in openings] == [8081, 8080]
    assert openings[0]["sources"] == openings[1]["sources"] != []


def test_the_firewall_takes_the_openings_of_a_lab_that_is_open_to_everybody(filters):
    spec = importlib.util.spec_from_file_location("firewall_filters", ROOT / "filter_plugins/firewall.py")
    plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
    everybody = {**LISTS, "allow_anywhere": True, "people": [*LISTS["people"][:2], {"name": "idle", "from": ["%"]}]}
    described = filters["peat_lab"]({**everybody, "projects": [{**PROJECTS[0], "read": ["idle", "nielsen"]}]}, {})
    openings = filters["peat_openings"](described, port=8080)
    assert openings == [{"port": 8080, "sources": ["%"]}]
    assert plugin.firewall_problems(openings) == []


def test_each_backend_has_its_own_opening(filters):
    whole = lab(filters, [*PROJECTS, {"name": "stored", "backend": "zeo", "clients": "current", "write": ["idle"]}])
    stored, databases = (filters["peat_of_backend"](whole, backend) for backend in ("zeo", "relstorage"))
    assert filters["peat_openings"](stored, port=8090) == [{"port": 8090, "sources": ["203.0.113.9/32"]}]
    assert databases["projects"] == PROJECTS
    assert filters["peat_openings"](databases, port=8080) == filters["peat_openings"](lab(filters, PROJECTS), port=8080)
    assert filters["peat_zeo_projects"](whole) == [{"name": "stored", "clients": "current", "state": "present"}]


def test_zeo_with_the_labs_authority_takes_no_other_one_beside_it(filters):
    whole = lab(filters, [{"name": "stored", "backend": "zeo", "clients": "current", "write": ["idle"]}])
    assert filters["peat_zeo_people"](whole) == ["idle"]
    ports = {"port": 8090, "tls": True}
    assert filters["peat_zeo_problems"](whole, **ports, issued=True) == []
    assert filters["peat_zeo_problems"](whole, **ports, given="/etc/ssl/peat.crt") == []
    (problem,) = filters["peat_zeo_problems"](whole, **ports, issued=True, given="/etc/ssl/peat.crt")
    assert "zeo_tls with tls_certificate (/etc/ssl/peat.crt)" in problem


def test_client_count_is_pairs_and_at_least_one_per_person(filters):
    # farrell from three networks, nielsen from one (two projects), idle from nowhere
    assert filters["peat_client_count"](lab(filters, PROJECTS)) == 5


@pytest.mark.parametrize(
    ("clients", "state", "needed"),
    [
        ("peat2", "present", False),
        ("relstorage4", "present", True),
        ("relstorage4", "frozen", True),
        ("relstorage4", "absent", False),
    ],
)
def test_announcement_is_for_modern_clients_only(filters, clients, state, needed):
    project = {"name": "more", "clients": clients, "state": state}
    assert filters["peat_needs_announcement"]([*PROJECTS, project]) is needed


def test_announcement_where_no_state_is_given(filters):
    assert filters["peat_needs_announcement"]([{"name": "more", "clients": "relstorage4"}]) is True


def test_passwords_given_generated_and_missing(filters, tmp_path):
    (tmp_path / "nielsen").write_text("generated-before\n")
    assert filters["peat_passwords"](LISTS["people"], str(tmp_path)) == {
        "farrell": "correct-horse-9",
        "nielsen": "generated-before",
        "idle": None,
    }


def test_damaged_password_file_is_named(filters, tmp_path):
    (tmp_path / "nielsen").write_text("")
    with pytest.raises(AnsibleFilterError, match="/nielsen must hold one line with a password"):
        filters["peat_passwords"](LISTS["people"], str(tmp_path))


@pytest.mark.parametrize("name", ["peat_openings", "peat_client_count"])
def test_filters_that_need_a_valid_lab_say_what_is_wrong(filters, name):
    extra = {"port": 8080} if name == "peat_openings" else {}
    with pytest.raises(AnsibleFilterError, match="unknown person 'nobody'"):
        filters[name](lab(filters, [{**PROJECTS[0], "write": ["nobody"]}]), **extra)


# The same through Ansible: the validating play, as site.yml begins with it.

GOOD = {"peat_networks": LISTS["networks"], "peat_people": LISTS["people"], "peat_projects": PROJECTS}


def validate(tmp_path, variables, *options):
    """Return exit code and output of the validating play; the host cannot be connected to."""
    (tmp_path / "group_vars").mkdir(exist_ok=True)
    (tmp_path / "hosts.yml").write_text("mysql: {hosts: {server: {ansible_host: 192.0.2.250}}}\n")
    text = variables if isinstance(variables, str) else yaml.safe_dump(variables)
    (tmp_path / "group_vars/all.yml").write_text(text)
    playbook = pathlib.Path(sys.executable).with_name("ansible-playbook")
    result = subprocess.run(
        [playbook, "-i", tmp_path, *options, ROOT / "playbooks/validate.yml"],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


def test_play_accepts_a_good_list_without_a_connection(tmp_path):
    code, output = validate(tmp_path, GOOD)
    assert code == 0, output


def test_play_refuses_with_every_problem_and_no_password(tmp_path):
    people = [
        {"name": "farrell", "from": "campus", "password": "hunter2"},
        {"name": "nielsen", "from": ["campus"], "password": {"value": "s3cr3t"}},
        "idle",
    ]
    code, output = validate(tmp_path, {**GOOD, "peat_people": people}, "-vvv")
    assert code == 2
    for problem in (
        "- peat_people, entry 1 (farrell): from is text: write a list, from: [campus]\n",
        "- peat_people, entry 1 (farrell): the password has fewer than 12 characters",
        "- peat_people, entry 2 (nielsen): the password is not text to YAML",
        "- peat_people, entry 3: is text: write '- name: ...'",
    ):
        assert problem in output
    assert "hunter2" not in output and "s3cr3t" not in output


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ("peat_people: {farrell: {from: [campus]}}", "- peat_people: is a mapping: make it a list of entries"),
        ("peat_people:", "- peat_people: is empty: make it a list of entries"),
        ("peat_people: [{name: no, from: [2001:10]}]", "- peat_people, entry 1: the name is False, not text to YAML"),
        (
            "peat_people: [{name: no, from: [2001:10]}]",
            "- peat_people, entry 1: an address is 120070, not text to YAML",
        ),
        ("peat_allow_anywhere: 'false'", "- peat_allow_anywhere: 'false' is not a boolean"),
        ('peat_people: [{name: a, from: [192.0.2.1], password: "{{ vault_a }}"}]', "'vault_a' is undefined"),
    ],
)
def test_play_names_the_entry_whatever_its_type(tmp_path, variables, message):
    code, output = validate(tmp_path, variables)
    assert code == 2
    assert message in output


def test_play_refuses_phpmyadmin_that_nobody_could_use(tmp_path):
    ready = {"peat_phpmyadmin": True, "peat_administrators": [{"name": "keeper"}], "peat_admin_networks": ["campus"]}
    assert validate(tmp_path, {**GOOD, **ready})[0] == 0
    without = {"peat_administrators": [], "peat_admin_networks": [], "peat_tls": "off"}
    code, output = validate(tmp_path, {**GOOD, **ready, **without})
    assert code == 2
    for cause in ("nobody could log in", "nobody could reach it", "there is none"):
        assert "- peat_phpmyadmin: " in output and cause in output
    code, output = validate(tmp_path, {**GOOD, **ready, "peat_administrators": [{"name": "farrell"}]})
    assert code == 2
    assert "- peat_administrators, entry 1 (farrell): has the name of peat_people, entry 1 (farrell)" in output


def test_play_knows_the_longer_names_of_mariadb(tmp_path):
    lists = {"peat_people": [{"name": "n" * 40, "from": ["192.0.2.1"]}]}
    assert validate(tmp_path, lists)[0] == 2
    assert validate(tmp_path, {**lists, "peat_flavour": "mariadb"})[0] == 0


def test_play_reads_a_hundred_small_files_beside_the_lists(tmp_path, filters):
    folder = tmp_path / "group_vars/mysql"
    folder.mkdir(parents=True)
    for number in range(100):
        people = [{"name": f"member{number}", "from": [f"198.51.100.{number}"]}, {"name": "farrell", "level": "read"}]
        request = {"project": f"p-{number}", "contact": "somebody", "clients": "peat2", "people": people}
        lists = {**LISTS, "projects": PROJECTS}
        made = filters["peat_request"](request, lists, {}, str(folder))
        assert made["problems"] == ()
        (tmp_path / made["path"]).write_text(made["text"])
    code, output = validate(tmp_path, GOOD)
    assert code == 0, output
    # One of them is wrong now: it is named.
    path = folder / "project_p-42.yml"
    path.write_text(path.read_text().replace("198.51.100.42", "198.51.100.0/33"))
    code, output = validate(tmp_path, GOOD)
    assert code == 2
    assert "- peat_hosted_p_2d_42 (member42): '198.51.100.0/33' is not an address" in output


def test_of_a_certificate_that_lies_on_a_server_is_known_when_it_ends(filters):
    now = datetime.datetime.now(datetime.timezone.utc)
    pair = pki.new_authority("Elsewhere", pki.new_key(), now, 10)
    found = filters["tls_expiry"](pki.certificate_text(pair.certificate).decode(), "db.zeo", "/etc/ssl/zeo.crt")
    assert [(entry["name"], entry["days_left"]) for entry in found["expiry"]] == [("db.zeo", 9)]
    assert "the certificate of db.zeo (/etc/ssl/zeo.crt) expires on" in found["expiring"][0]
    with pytest.raises(AnsibleFilterError, match="holds no certificate in PEM form"):
        filters["tls_expiry"]("", "db.zeo", "/etc/ssl/zeo.crt")


# What playbooks/verify.yml found

OK = {"server": "db", "check": "firewall", "found": "as declared", "ok": True}


def test_what_was_found_of_all_hosts_is_one_table(filters):
    answered = {"peat_answered": {"ping": "pong"}}
    point = {"results": [{"rows": [{**OK, "check": "reach"}]}, {"skipped": True}]}
    found = filters["peat_verification"]({"db": {**answered, "peat_verified": {"rows": [OK]}, "peat_reached": point}})
    assert (found["failed"], [row["check"] for row in found["rows"]]) == (0, ["firewall", "reach"])
    assert found["table"].endswith("2 checks, all ok\n")


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ({"peat_answered": {"unreachable": True, "msg": "no route"}}, "cannot be reached: no route"),
        ({"peat_answered": {"ping": "pong"}, "peat_unverified": {"msg": "no answer"}}, "not verified: no answer"),
        ({"peat_answered": {"ping": "pong"}, "peat_unverified_zeo": {"msg": "it crashed"}}, "not verified: it crashed"),
    ],
)
def test_a_host_that_was_not_verified_is_no_pass(filters, host, text):
    found = filters["peat_verification"]({"db": host})
    assert found["failed"] == 1 and text in found["table"]


def test_nothing_found_is_no_pass(filters):
    assert filters["peat_verification"]({})["failed"]
    assert filters["peat_verification"]({"db": {"peat_answered": {"ping": "pong"}}})["failed"]


@pytest.mark.parametrize("replace", ["false", "no", False, "true", True])
def test_replacing_a_file_is_meant_however_it_is_said(filters, tmp_path, replace):
    # -e peat_adopt_replace=false is the text 'false'.
    kept = replace not in ("true", True)
    (tmp_path / "adopted.yml").write_text("# edited\n")
    (tmp_path / "project_hewl.yml").touch()
    refusals = filters["peat_adoption_refusals"](str(tmp_path), [], replace=replace)
    assert ["was edited" in text for text in refusals] == [True] * kept
    request = {"project": "hewl", "contact": "Ann <a@example.org>", "clients": "peat2", "people": [{"name": "nielsen"}]}
    lists = {**LISTS, "projects": []}
    hosted = {"peat_hosted_hewl": {**request, "contact": "Eve <eve@example.org>"}}
    problems = filters["peat_request"](request, lists, hosted, folder=str(tmp_path), replace=replace)["problems"]
    assert ["peat_request_replace" in text for text in problems] == [True] * kept


def test_what_is_neither_yes_nor_no_replaces_nothing(filters, tmp_path):
    with pytest.raises(AnsibleFilterError, match="peat_adopt_replace: 'ture' is not a boolean"):
        filters["peat_adoption_refusals"](str(tmp_path), [], replace="ture")
    with pytest.raises(AnsibleFilterError, match="peat_request_replace: 'ture' is not a boolean"):
        filters["peat_request"]({}, LISTS, {}, folder=str(tmp_path), replace="ture")
