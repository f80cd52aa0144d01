"""Hostile texts in everything that is written from a list: files, pages, rules, statements and names of files.

What cannot be is refused. What can be arrives as the text that it is and changes nothing around it.
"""

from __future__ import annotations

import html.parser
import io
import os
import pathlib
import re

import hostile
import pytest
import yaml
import ZConfig
from ansible._internal._datatag._tags import TrustedAsTemplate
from ansible.parsing.dataloader import DataLoader
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from peat import (
    account_state,
    account_steps,
    adoption,
    encryption,
    hosting,
    lab,
    markup,
    optionfiles,
    passwords,
    ruleset,
    schema,
    server,
    server_options,
    sheets,
    sql,
    zeo,
)

NETWORKS = [{"name": "campus", "addresses": ["192.0.2.0/24"]}]
SERVER = sheets.Server("db.example.org", 8080)

quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150)


# SQL

_LITERAL = re.compile(r"'(?:[^'\\]|\\\\|'')*'", re.DOTALL)
_NAME = re.compile(r"`(?:[^`\0]|``)+`", re.DOTALL)


@quick
@given(hostile.texts)
def test_text_and_names_are_one_word_of_sql(text):
    for quote, word, undone in (
        (sql.literal, _LITERAL, lambda found: found.replace("''", "'").replace("\\\\", "\\")),
        (sql.quote_name, _NAME, lambda found: found.replace("``", "`")),
    ):
        try:
            quoted = quote(text)
        except sql.SqlError:
            assert "\0" in text or not text
        else:
            assert word.fullmatch(quoted) and undone(quoted[1:-1]) == text


@quick
@given(hostile.texts)
def test_statements_about_a_database_name_it_and_nothing_else(name):
    def statements(name):
        projects = schema.wanted(
            [{"name": name, "clients": "peat2"}, {"name": "gone", "clients": "peat2", "state": "absent"}]
        )
        server_ = schema.Server(True, {"gone": schema.Database()})
        changes = schema.plan(projects, server_, {}) + schema.plan_removal(projects, server_, ["gone"])
        return [text for change in changes for text in change.statements] + [schema.lock_rows_query([name])]

    try:
        quoted = sql.quote_name(name), sql.literal(name)
    except sql.SqlError:
        return
    found = [text.replace(quoted[0], "`x`").replace(quoted[1], "'x'") for text in statements(name)]
    assert found == statements("x")


# The validation


@quick
@given(hostile.texts)
def test_a_persons_and_a_projects_name_is_a_file_in_its_folder(text):
    for people, projects in (([{"name": text, "from": ["192.0.2.1"]}], []), ([], [{"name": text, "clients": "peat2"}])):
        try:
            lab.load([], people, projects)
        except lab.LabError:
            continue
        for path in (text, f"{text}.txt", f"{text}.client.key", f"project_{text}.yml"):
            assert os.path.dirname(os.path.normpath(os.path.join("/folder", path))) == "/folder"
            assert not path.startswith((".", "-"))
        if people:
            assert passwords.file_of("/folder", text) == f"/folder/{text}"


@quick
@given(hostile.texts)
def test_no_password_file_is_outside_its_folder(text):
    try:
        path = passwords.file_of("/folder", text)
    except passwords.PasswordError:
        return
    assert os.path.split(os.path.normpath(path)) == ("/folder", text)


@quick
@given(hostile.texts)
def test_the_servers_address_is_a_word(text):
    """It is written into option files of stunnel and ZODB, and into programs."""
    if sheets.address_problem(text):
        with pytest.raises(sheets.SheetError):
            sheets.render_all(lab.Lab({}, {}, ()), sheets.Server(text, 8080), {})
    else:
        assert re.fullmatch(r"[A-Za-z0-9_.:%-]+", text)
        lines = encryption.forwarder(text, 8081).splitlines()
        assert len(lines) == len(encryption.forwarder("db", 8081).splitlines())


# Sheets and pages


class _Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, attributes))

    def handle_comment(self, data):
        self.tags.append(("comment", data))

    def handle_data(self, data):
        self.texts.append(data)


@quick
@given(hostile.texts)
def test_nothing_becomes_markup(text):
    page = markup.page(text, markup.element("p", text, title=text), markup.element("pre", text))
    tags = [tag for tag, _attributes in _Page(page).tags]
    assert tags == [
        tag for tag, _attributes in _Page(markup.page("x", markup.element("p", "x"), markup.element("pre", "x"))).tags
    ]


@quick
@given(hostile.passwords)
def test_a_password_is_in_a_sheet_as_it_is_and_never_in_its_diff(password):
    described = lab.load(NETWORKS, [{"name": "ann", "from": ["campus"], "password": password}],
                         [{"name": "p", "clients": "relstorage4", "write": ["ann"]}])  # fmt: skip
    harmless, rendered = (
        sheets.render_all(described, SERVER, {"ann": each}) for each in ("harmless password", password)
    )
    assert rendered["ann.txt"] == harmless["ann.txt"].replace("harmless password", password)
    page, other = _Page(rendered["ann.html"]), _Page(harmless["ann.html"])
    assert page.tags == other.tags and password in page.texts
    shown = sheets.plan({}, rendered).diffs("sheets") + sheets.plan(harmless, rendered).diffs("sheets")
    assert not [part for part in shown if password in part["before"] + part["after"]]


# Files of programs


@quick
@given(st.dictionaries(st.one_of(st.sampled_from(["tmpdir", "init_connect", "ft_stopword_file"]), hostile.texts),
                       hostile.texts, min_size=1, max_size=3))  # fmt: skip
def test_an_option_file_says_the_settings_and_no_more(values):
    try:
        server_options.check_settings(values, "mariadb", "11.8.6", 4096)
    except server.ServerError:
        return
    text = server.render(values)
    groups = optionfiles.server_groups("mariadb", (11, 8))
    read = {setting.name: setting.value for setting in optionfiles.read_one(text, "/x.cnf", groups)}
    assert read == {optionfiles.normal_name(name): value for name, value in values.items()}
    # What the server itself takes for a line.
    assert len(text.split("\n")) == len(server.render(dict.fromkeys(values, "x")).split("\n"))


@quick
@given(st.lists(hostile.texts, min_size=1, max_size=2))
def test_a_unit_has_as_many_lines_as_for_other_folders(folders):
    chosen = {"flavour": "mariadb"}
    found = server.drop_in(chosen, False, [f"/{folder}" for folder in folders])
    assert len(found.split("\n")) == len(server.drop_in(chosen, False, ["/x"] * len(folders)).split("\n"))


@quick
@given(hostile.texts, hostile.texts)
@example("192.0.2.1", 'x" accept; #')
def test_the_firewalls_rules_are_those_of_a_harmless_comment(source, comment):
    try:
        managed = ruleset.openings([{"port": 8080, "sources": [source], "comment": comment}])
    except ruleset.RulesetError:
        return
    text = ruleset.render(managed)
    bare = ruleset.render(ruleset.openings([{"port": 8080, "sources": [source]}]))
    assert re.sub(r' comment "[^"\n]*"', "", text) == bare
    assert re.fullmatch(r"[^\"]*", bare.replace('"lo"', ""))
    elements = re.findall(r"elements = \{([^}]*)\}", bare)
    assert all(re.fullmatch(r"[0-9a-f.:/,\s]+", each) for each in elements)


@quick
@given(hostile.texts, hostile.texts)
@example("hewl", "/srv/x\n<zeo>")
def test_zeo_conf_has_the_storages_and_nothing_else(name, folder):
    try:
        layout = zeo.layout([{"name": name, "state": "present"}], folder, {})
    except zeo.ZeoError:
        return
    text = zeo.config(zeo.Server("current", layout.served, 8090, 120))
    bare = zeo.config(zeo.Server("current", (zeo.Storage("x", "/x", False),), 8090, 120))
    assert len(text.split("\n")) == len(bare.split("\n"))
    found = ZConfig.loadConfigFile(_ZEO_SCHEMA, io.StringIO(text))[0]
    assert [(one.getSectionName(), one.path) for one in found.storages] == [
        (name, f"{layout.served[0].folder}/Data.fs")
    ]


_ZEO_SCHEMA = ZConfig.loadSchemaFile(
    io.StringIO(
        """<schema>
        <sectiontype name="filestorage"><key name="path"/><key name="blob-dir"/></sectiontype>
        <sectiontype name="zeo"><key name="+" attribute="keys"/></sectiontype>
        <sectiontype name="logfile"><key name="path"/></sectiontype>
        <sectiontype name="eventlog">
          <key name="level"/><section type="logfile" name="*" attribute="logfile"/>
        </sectiontype>
        <sectiontype name="runner"><key name="+" attribute="keys"/></sectiontype>
        <section type="zeo" name="*" attribute="zeo"/>
        <multisection type="filestorage" name="+" attribute="storages"/>
        <section type="eventlog" name="*" attribute="eventlog"/>
        <section type="runner" name="*" attribute="runner"/>
        </schema>"""
    )
)


@quick
@given(hostile.texts)
def test_a_zeo_servers_certificate_is_a_path(text):
    assert bool(zeo.tls_problems([text])) == (not re.fullmatch(r"/[A-Za-z0-9_./+-]*[A-Za-z0-9_+-]", text))


# The inventory, written by what others say


def templates(value):
    """The texts of what Ansible read that it would evaluate."""
    if isinstance(value, dict):
        return [text for item in (*value, *value.values()) for text in templates(item)]
    if isinstance(value, list):
        return [text for item in value for text in templates(item)]
    is_template = isinstance(value, str) and any(mark in value for mark in ("{{", "{%", "{#"))
    return [value] if is_template and TrustedAsTemplate.is_tagged_on(value) else []


def read_by_ansible(text, folder):
    path = pathlib.Path(folder, "vars.yml")
    path.write_text(text, encoding="utf-8")
    return DataLoader().load_from_file(str(path), trusted_as_template=True)


def test_a_template_would_be_seen(tmp_path):
    assert templates(read_by_ansible('a: ["{{ x }}"]\n', tmp_path)) == ["{{ x }}"]


@quick
@given(hostile.texts.filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text)))
@example("{{ lookup('pipe', 'id') }}")
@example("\u2028a: b")
def test_a_text_written_into_an_inventory_is_read_as_that_text(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    found = read_by_ansible(f"a: {adoption.yaml_text([text])}\n", folder)
    assert found == {"a": [text]} and not templates(found)


@quick
@given(st.sampled_from(["project", "contact", "clients", "name", "from", "level", "tls", "key"]), hostile.texts)
@example("contact", "{{ lookup('pipe', 'id') }}")
def test_a_request_for_hosting_is_no_template_and_no_other_variable(tmp_path_factory, field, text):
    asked = {
        "project": "titration",
        "contact": "Ada",
        "clients": "peat2",
        "people": [{"name": "ada", "from": ["192.0.2.1"]}],
    }
    if field in asked:
        asked[field] = text
    elif field == "key":
        asked[text] = "x"
    else:
        asked["people"][0][field] = [text] if field == "from" else text
    folder = tmp_path_factory.mktemp("inventory")
    lists = {"networks": [], "people": [], "projects": [], "allow_anywhere": False}
    made = hosting.request(asked, lists, {}, str(folder))
    if made.problems:
        return
    assert os.path.dirname(made.path) == str(folder)
    found = read_by_ansible(made.text, folder)
    assert found == {made.variable: made.value} and not templates(found)


@quick
@given(st.lists(hostile.texts, min_size=1, max_size=3))
@example(["x\u2028tls_authority_name: \"{{ lookup('pipe', 'id') }}\""])
def test_a_server_that_is_adopted_says_nothing_but_its_lists(tmp_path_factory, texts):
    login = account_state.Login("mysql_native_password", "*" + "0" * 40)
    found = account_state.State(
        "mariadb",
        {account_state.Account(text, host): login for text in texts for host in ("192.0.2.1", text)},
        {
            account_state.Account(text, host): {account_state.Scope("database", other): frozenset(("SELECT",))}
            for text in texts for host in ("192.0.2.1", text) for other in texts
        },
    )  # fmt: skip
    identities = {text: schema.Identity("peat2", True, "", "") for text in texts}
    adopted = adoption.adopt(found, identities, texts)
    folder = tmp_path_factory.getbasetemp()
    lists = read_by_ansible(adoption.lists_text(adopted, "server", 8080), folder)
    assert set(lists) == {"mysql_port", "peat_networks", "peat_people", "peat_projects"}
    names = {person["name"] for person in lists["peat_people"]}
    assert set(templates(lists)) <= {f"{{{{ peat_adopted_passwords['{name}'] }}}}" for name in names}
    assert set(read_by_ansible(adoption.passwords_text(adopted), folder)) == {"peat_adopted_passwords"}


@quick
@given(hostile.texts)
def test_what_people_read_is_on_one_line_and_moves_no_cursor(text):
    account = account_state.Account(text, text)
    scopes = [account_state.Scope(kind, text, text, text) for kind in ("database", "table", "role", "PROCEDURE")]
    roles = [account_state.Account(text, "")] if text.replace("\0", "") == text != "" else []
    role = [step.about for step in account_steps._drop(roles)]
    assert all(shown.isprintable() for shown in (str(account), *map(str, scopes), *role))


def test_the_yaml_of_a_hostile_text_is_yaml_for_other_programs_too():
    assert yaml.safe_load(adoption.yaml_text("a\n\x1b\u2028")) == "a\n\x1b\u2028"
