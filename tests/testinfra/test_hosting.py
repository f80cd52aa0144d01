"""Hosting a project: from a request to a small file of the inventory and a working client, and out again.

The small files are in an inventory of their own beside the scenario's, as `-i` takes several.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from conftest import Run, run_ansible


@pytest.fixture(scope="module")
def inventory(tmp_path_factory) -> Path:
    """The folder of the inventory in which the small files are."""
    folder = tmp_path_factory.mktemp("inventory")
    (folder / "hosts.yml").write_text("mysql: {}\n")
    return folder


@pytest.fixture(scope="module")
def host_project(inventory, site) -> Callable[..., Run]:
    """Run playbooks/host-project.yml with a request."""

    def run(request: dict, variables: dict | None = None, *options: str, check: bool = False) -> Run:
        values = {"peat_request": request, "peat_inventory_dir": str(inventory), **(variables or {})}
        options = (*options, *(["--check"] if check else []))
        arguments = ["--diff", f"--inventory={inventory}", f"--extra-vars={json.dumps(values)}", *options]
        site.to_restore = True
        return Run(*run_ansible("ansible-playbook", *arguments, "playbooks/host-project.yml"))

    return run


@pytest.fixture(scope="module")
def files(inventory, lab) -> Callable[[], dict[str, bytes]]:
    """What is in the inventory, and the secrets and sheets beside the scenario's, by path."""
    folders = [inventory, Path(lab.server["secrets"]), Path(lab.server["sheets"])]
    return lambda: {str(path): path.read_bytes() for each in folders for path in each.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def state(server, sql) -> Callable[[], dict[str, object]]:
    """What of the server a run could change: accounts and rights by user, databases, and the rest."""

    def read() -> dict[str, object]:
        accounts: dict[str, list] = {}
        grants = "SELECT grantee, table_schema, '', privilege_type FROM information_schema.schema_privileges"
        grants += " UNION ALL SELECT grantee, table_schema, table_name, privilege_type"
        grants += " FROM information_schema.table_privileges ORDER BY 1, 2, 3, 4"
        for user, host, secret in sql("SELECT user, host, HEX(authentication_string) FROM mysql.user ORDER BY 1, 2"):
            accounts.setdefault(user, []).append((host, secret))
        for grantee, *right in sql(grants):
            accounts.setdefault(grantee.split("'")[1], []).append(right)
        return {
            "accounts": accounts,
            "databases": {name for (name,) in sql("SHOW DATABASES")},
            "firewall": set(server.check_output("nft --stateless list table inet peat").split()),
            "packages": server.check_output("dpkg-query --show | md5sum"),
            "server": server.check_output("systemctl show --property=MainPID mariadb mysql"),
            "options": server.check_output(
                "find /etc/mysql /etc/systemd/system /etc/fail2ban -type f -exec md5sum {} + | sort"
            ),
        }

    return read


@pytest.fixture(scope="module")
def request_(lab) -> dict:
    """Somebody from elsewhere asks for a project, to be read by somebody of the lab."""
    addresses = [lab.hosts[name]["address"] for name in ("peat2", "stranger")]
    return {
        "project": "titration_db",
        "contact": "Ada Lovelace <ada@example.org>",
        "clients": "peat2",
        "people": [{"name": "ada", "from": addresses}, {"name": "guest", "level": "read"}],
    }


@pytest.fixture(scope="module")
def hosted(host_project, request_, site, inventory, state, files, run_client, lab) -> Iterator[dict]:
    """The request foretold, done, and done again, while somebody else's client works on.

    What is pending of parts that no request concerns is not done in passing.
    """
    before, kept = state(), files()
    stranger = run_client(
        "stranger", "relstorage4", "open", "ada", "titration_db", password="not made yet", port=lab.server["port"]
    )
    loop = run_client.loop("peat2", "peat2", "farrell", "hewlsample", seconds=3600, every=0.3, prefix="meanwhile")
    loop.wait_for(2)
    found = {"loop": loop, "before": before, "kept": kept, "stranger": stranger}
    pending = {"fail2ban_failures": 77}
    found["foretold"] = host_project(request_, pending, check=True)
    found["untouched"] = (state(), files())
    found["done"] = host_project(request_, pending)
    found["after"], found["files"] = state(), files()
    found["again"] = host_project(request_)
    found["site"] = site(None, f"--inventory={inventory}")
    yield found
    loop.stop()
    Path(lab.server["secrets"], "ada").unlink(missing_ok=True)


def test_a_dry_run_changes_nothing_and_foretells_everything(hosted):
    assert hosted["foretold"].ok, hosted["foretold"].failure
    assert hosted["done"].ok, hosted["done"].failure
    assert hosted["untouched"] == (hosted["before"], hosted["kept"])
    assert hosted["foretold"].changed == hosted["done"].changed != []
    assert hosted["foretold"].diffs == hosted["done"].diffs


def test_the_same_request_again_changes_nothing(hosted):
    assert hosted["again"].ok, hosted["again"].failure
    assert hosted["again"].changed == []


def test_the_inventory_has_a_small_file_more_and_means_it(hosted, inventory, request_):
    path = inventory / "group_vars/mysql/project_titration_db.yml"
    assert yaml.safe_load(path.read_text()) == {"peat_hosted_titration_db": request_}
    assert len(path.read_text().splitlines()) < 12
    assert [str(path)] == [name for name in hosted["files"].keys() - hosted["kept"].keys() if str(inventory) in name]
    # What site.yml makes of that inventory is what is there.
    assert hosted["site"].ok, hosted["site"].failure
    assert hosted["site"].changed == []


def test_clients_of_the_project_work(hosted, run_client, unused):
    assert run_client("peat2", "peat2", "add", "ada", "titration_db", prefix=unused, records=2)["ok"]
    assert run_client("peat2", "peat2", "read", "guest", "titration_db", prefix=unused)["wrong"] == []
    assert run_client("peat2", "peat2", "add", "guest", "titration_db", prefix=unused)["error"]["number"] == 1044


def test_the_port_opened_for_the_new_address(hosted, run_client):
    assert hosted["stranger"]["error"]["number"] == 2003
    # Let in now, but not into another project.
    assert run_client("stranger", "relstorage4", "open", "ada", "modernhp")["error"]["number"] == 1044


def test_nothing_else_was_touched(hosted):
    before, after = hosted["before"], hosted["after"]
    for same in ("packages", "server", "options"):
        assert after[same] == before[same]
    assert after["databases"] - before["databases"] == {"titration_db"}
    assert before["databases"] <= after["databases"]
    assert {user for user in after["accounts"] if after["accounts"][user] != before["accounts"].get(user)} == {
        "ada",
        "guest",
    }
    assert [row for row in after["accounts"]["guest"] if row not in before["accounts"]["guest"]]
    assert [row for row in before["accounts"]["guest"] if row not in after["accounts"]["guest"]] == []


def test_only_the_people_concerned_got_a_sheet(hosted):
    new = {Path(path).stem for path, content in hosted["files"].items() if hosted["kept"].get(path) != content}
    assert new == {"project_titration_db", "ada", "guest"}


def test_the_client_of_another_project_worked_on(hosted):
    """Through all of it: no session of a project that is not concerned was ended."""
    saved = len(hosted["loop"].saved())
    hosted["loop"].wait_for(saved + 2)
    assert hosted["loop"].running()


def test_no_password_is_shown(hosted, lab):
    for run in ("foretold", "done", "again", "site"):
        assert lab.password("ada") not in hosted[run].text


# Refusals


@pytest.fixture(scope="module")
def unlisted(hosted, sql) -> Iterator[str]:
    """A database with RelStorage's tables that belongs to no project."""
    sql("CREATE DATABASE forgotten")
    sql("CREATE TABLE forgotten.object_state LIKE hewlsample.object_state")
    sql("CREATE TABLE forgotten.new_oid LIKE hewlsample.new_oid")
    yield "forgotten"
    sql("DROP DATABASE forgotten")


def wrong(request: dict) -> dict:
    people = [{"name": "eve"}, {"name": "root", "from": ["%"]}, {"name": "guest", "from": ["192.0.2.7"]}]
    return {**request, "project": "hewlsample", "clients": "peat3", "colour": "red", "people": people}


def new(request: dict) -> dict:
    return {**request, "project": "new"}


WRONG = [
    "(hewlsample): has the name of",
    "'peat3'",
    "'colour'",
    "(eve)",
    "(root): '%'",
    "(root): is an",
    "(guest): works",
]


@pytest.mark.parametrize(
    ("change", "variables", "messages"),
    [
        (wrong, {}, WRONG),
        (lambda request: {**request, "contact": "Eve"}, {}, ["hosted already", "Ada Lovelace"]),
        (lambda request: {**request, "project": "forgotten"}, {}, ["database forgotten with data that belongs to no"]),
        (new, {"mysql_settings": {"long_query_time": 3}}, ["(packages or settings of the server): run site.yml"]),
        (new, {"peat_allow_anywhere": "no"}, ["peat_allow_anywhere"]),
    ],
    ids=["wrong", "somebody-elses", "data-of-nobody", "server-is-behind", "inventory-is-wrong"],
)
def test_refused_before_anything_changes(
    hosted, unlisted, host_project, request_, state, files, change, variables, messages
):
    before = (state(), files())
    run = host_project(change(request_), variables)
    assert not run.ok
    assert run.changed == []
    assert [text for text in messages if text not in run.failure] == [], run.failure
    assert (state(), files()) == before


def one_more(lists: dict) -> dict:
    lists["peat_people"].append({"name": "newcomer", "from": ["campus"]})
    lists["peat_projects"].append({"name": "pending", "clients": "peat2", "write": ["newcomer"]})
    return lists


@pytest.mark.parametrize(
    ("variables", "pending"),
    [
        (one_more, "passwords, tables, accounts, connection sheets"),
        (lambda _lists: {"peat_server_address": "db.example.org"}, "connection sheets, certificates"),
        (lambda _lists: {"firewall_default_deny": True}, "the firewall"),
    ],
    ids=["accounts", "sheets", "firewall"],
)
def test_what_is_pending_for_others_is_not_done_by_the_way(
    hosted, unlisted, host_project, request_, state, files, lab, variables, pending
):
    before = (state(), files())
    run = host_project(new(request_), variables(lab.lists()))
    assert not run.ok
    assert f"({pending}): run site.yml first" in run.failure
    assert (state(), files()) == before


# The way out


@pytest.fixture(scope="module")
def twin(lab, tmp_path_factory) -> tuple[str, str]:
    """Options with which the lab has the server a second time by another name, and a run is for that one only."""
    secrets = Path(lab.server["secrets"])
    same = {"peat_secrets_dir": str(secrets), "peat_sheets_dir": lab.server["sheets"], "tls_name": "server"}
    values = {"ansible_host": lab.server["address"], "tls_authority_dir": str(secrets.parent / "tls"), **same}
    values |= {"testhost_address6": lab.server["address6"]}
    path = tmp_path_factory.mktemp("twin") / "hosts.yml"
    path.write_text(json.dumps({"mysql": {"hosts": {"twin": values}}}))
    return f"--inventory={path}", "--limit=twin"


@pytest.fixture(scope="module")
def removed(hosted, host_project, request_, site, inventory, unlisted, twin, lab) -> dict:
    """titration_db says absent, and the file of another hosted project is deleted; then its file goes, too.

    The other is hosted on one server of several. The lists have lost the projects for RelStorage 4 meanwhile, and then
    somebody asks for one.
    """
    other = {**request_, "project": "sorption-2", "people": [{"name": "ada", "from": request_["people"][0]["from"]}]}
    found = {"other": host_project(other, None, *twin)}
    path = inventory / "host_vars/twin/project_sorption-2.yml"
    found["path"] = path.exists()
    found["other again"] = host_project(other, None, *twin)
    path.unlink(missing_ok=True)
    absent = inventory / "group_vars/mysql/project_titration_db.yml"
    absent.write_text(absent.read_text() + "  state: absent\n")
    found["refused"] = site(None, f"--inventory={inventory}")
    lists = lab.lists()
    lists["peat_projects"] = [project for project in lists["peat_projects"] if project["clients"] == "peat2"]
    found["removed"] = site({**lists, "peat_confirm_absent": ["titration_db"]}, f"--inventory={inventory}")
    absent.unlink()
    found["again"] = site(lists, f"--inventory={inventory}")
    found["modern"] = host_project({**new(request_), "clients": "relstorage4"}, lists, check=True)
    return found


def test_for_one_server_of_several_the_file_is_that_servers(removed):
    assert removed["other"].ok, removed["other"].failure
    assert removed["path"]
    assert {host for _task, host, _result in removed["other"].results()} == {"twin"}
    assert removed["other again"].ok, removed["other again"].failure
    assert removed["other again"].changed == []


def test_a_restart_for_a_request_is_said_before(removed):
    """MariaDB begins to announce another version with the first project for RelStorage 4."""
    assert removed["modern"].ok, removed["modern"].failure
    (said,) = (result["msg"] for result in removed["modern"].output_of("What it does to everybody") if "msg" in result)
    assert said.startswith("The server restarts once for this request, which ends everybody's sessions: version:")
    (unsaid,) = removed["other"].output_of("What it does to everybody")
    assert unsaid["skipped"]


def test_a_removal_is_said_twice(removed):
    assert removed["other"].ok, removed["other"].failure
    assert not removed["refused"].ok
    assert removed["refused"].changed == []
    assert "peat_confirm_absent" in removed["refused"].failure


def test_removed_is_dumped_dropped_and_forgotten(removed, sql):
    assert removed["removed"].ok, removed["removed"].failure
    (result,) = removed["removed"].output_of("Removed projects")
    assert result["projects"][0]["backup"]
    assert sql("SHOW DATABASES LIKE 'titration_db'") == []
    assert sql("SELECT COUNT(*) FROM mysql.user WHERE user = 'ada'") == [["0"]]


def test_without_its_file_a_project_keeps_its_data_and_nobody_reaches_it(removed, sql, run_client, lab):
    assert sql("SHOW DATABASES LIKE 'sorption-2'") == [["sorption-2"]]
    assert any("sorption-2" in finding for finding in removed["again"].output_of("Databases |")[0]["findings"])
    assert run_client("stranger", "relstorage4", "open", "ada", "sorption-2")["error"]["number"] == 2003
    sql("DROP DATABASE `sorption-2`")


def test_without_the_files_only_the_sheet_was_left(removed):
    assert removed["again"].ok, removed["again"].failure
    assert [task.partition(" | ")[0] for _host, task in removed["again"].changed] == ["peat : Sheets"]
