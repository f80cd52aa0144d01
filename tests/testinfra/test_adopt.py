"""A server made by hand, by the wiki page of old, becomes an inventory, and nobody there notices.

What playbooks/adopt.yml says that site.yml will change is what site.yml changes; people log in with the passwords they
have, from the addresses they have.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import testinfra
import yaml
from conftest import VARIABLES, Run, connect, put, run_ansible
from test_existing import FIXTURE, NAME, RELSTORAGE_15
from test_firewall import knock

PASSWORD = "the old password of {}"
ACCOUNTS = """
CREATE DATABASE my_sandbox; CREATE DATABASE my1sandbox;
CREATE DATABASE accounting; CREATE TABLE accounting.bills (id INT PRIMARY KEY) ENGINE = InnoDB;
GRANT ALL PRIVILEGES ON hewlsample.* TO farrell@'%' IDENTIFIED BY '{farrell}';
GRANT ALL PRIVILEGES ON hewlsample.* TO farrell@'{peat2}' IDENTIFIED BY '{farrell}';
GRANT ALL PRIVILEGES ON hewlsample.* TO farrell@'{modern}' IDENTIFIED BY '{farrell}';
GRANT ALL PRIVILEGES ON `my_sandbox`.* TO farrell@'{peat2}';
GRANT SELECT ON hewlsample.* TO guest@'{peat2}' IDENTIFIED BY '{guest}';
GRANT SELECT ON hewlsample.* TO guest@'{modern}' IDENTIFIED BY '{guest}';
GRANT ALL PRIVILEGES ON hewlsample.* TO nielsen@'{net}/24' IDENTIFIED BY '{nielsen}';
GRANT ALL PRIVILEGES ON `my\\_sandbox`.* TO nielsen@'{net}/255.255.255.0' IDENTIFIED BY '{nielsen}';
GRANT ALL PRIVILEGES ON screening.* TO pipeline@'{modern}' IDENTIFIED BY '{pipeline}';
GRANT ALL PRIVILEGES ON archive.* TO archivist@'{peat2}' IDENTIFIED BY '{farrell}';
GRANT SELECT, INSERT ON accounting.* TO bookkeeper@'{peat2}' IDENTIFIED BY '{farrell}';
GRANT ALL PRIVILEGES ON *.* TO admin@'{modern}' IDENTIFIED BY '{farrell}';
GRANT SELECT, LOCK TABLES, SHOW VIEW, TRIGGER ON hewlsample.* TO backup@'{modern}' IDENTIFIED BY '{farrell}';
"""


@pytest.fixture(scope="module")
def old(lab) -> dict:
    """What the scenario's inventory says of the server of old, which is in no group."""
    message = f"msg={{{{ {VARIABLES} }}}}".replace("\n", " ")
    code, report, text = run_ansible("ansible", "old", "-m", "ansible.builtin.debug", "-a", message)
    assert code == 0 and report, text
    return report["plays"][0]["tasks"][0]["hosts"]["old"]["msg"] | {"port": 3306}


@pytest.fixture(scope="module")
def host(old) -> testinfra.host.Host:
    return connect(old)


@pytest.fixture(scope="module")
def ask(lab, run_client, old) -> Callable[..., dict]:
    """run_client for the server of old, with the passwords of old."""

    def run(client: str, program: str, command: str, person: str, project: str, **options) -> dict:
        where = {"server": old["address"], "port": old["port"], "password": PASSWORD.format(person)}
        return run_client(client, program, command, person, project, **where | options)

    return run


@pytest.fixture(scope="module")
def by_hand(host, lab, ask, old) -> dict:
    """The server as it was made by hand, and what PEAT reads from it."""
    host.check_output("apt-get update --quiet")
    host.check_output("DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes mariadb-server")
    put(host, b"[mysqld]\nbind-address = *\nskip-name-resolve\n", "/etc/mysql/mariadb.conf.d/60-by-hand.cnf")
    host.check_output("systemctl restart mariadb")
    for name in ("hewlsample", "archive", "screening"):
        host.check_output(f"mariadb --execute='CREATE DATABASE {name}'")
    put(host, (FIXTURE / f"{NAME}.sql.gz").read_bytes(), "/root/hewlsample.sql.gz")
    for name in ("hewlsample", "archive"):
        host.check_output(f"zcat /root/hewlsample.sql.gz | mariadb {name}")
    addresses = {name: lab.hosts[name]["address"] for name in ("peat2", "modern")}
    network = addresses["peat2"].rpartition(".")[0] + ".0"
    secrets = {name: PASSWORD.format(name) for name in ("farrell", "guest", "nielsen", "pipeline")}
    put(host, (RELSTORAGE_15 + ACCOUNTS.format(net=network, **addresses, **secrets)).encode(), "/root/by-hand.sql")
    host.check_output("mariadb hewlsample < /root/by-hand.sql")
    for name in ("my_sandbox", "my1sandbox"):
        host.check_output(f"mariadb-dump --no-data hewlsample | mariadb {name}")
        first = "INSERT INTO transaction (tid, username, description) VALUES (0, 'system', 'object creation')"
        host.check_output("mariadb %s --execute=%s", name, first)
    # RelStorage 4 makes its own tables where there is no history to keep.
    ask("modern", "relstorage4", "open", "pipeline", "screening", history_free=True, create_schema=True)
    found = ask("peat2", "peat2", "dump", "farrell", "hewlsample")
    assert found["ok"], found
    # Over IPv6 it is the account for every address that lets in.
    assert ask("peat2", "peat2", "dump", "farrell", "hewlsample", server=old["address6"]) == found
    return found


@pytest.fixture(scope="module")
def folder(old, tmp_path_factory) -> Path:
    """An inventory that only names the server."""
    folder = tmp_path_factory.mktemp("inventory")
    connection = {
        "ansible_host": old["address"],
        "ansible_user": old["user"],
        "ansible_ssh_private_key_file": old["key"],
        "ansible_ssh_common_args": old["ssh_args"],
        "mysql_memory_mb": 1024,
    }
    (folder / "hosts.yml").write_text(yaml.safe_dump({"mysql": {"hosts": {"old": connection}}}))
    return folder


@pytest.fixture(scope="module")
def play(folder) -> Callable[..., Run]:
    """Run a playbook on that inventory alone."""

    def run(playbook: str, *options: str) -> Run:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PEAT_INVENTORY", str(folder))
            return Run(*run_ansible("ansible-playbook", "--diff", *options, playbook))

    return run


@pytest.fixture(scope="module")
def adopted(by_hand, play, folder) -> Iterator[dict]:
    """Adopted: foretold, done, done again; then site.yml foretold, done, done again."""
    written = folder / "group_vars/mysql"
    # What reads the server is not there yet.
    found = {"bare": play("playbooks/adopt.yml", "--check"), "done": play("playbooks/adopt.yml")}
    assert found["done"].ok, found["done"].failure
    found["again"] = play("playbooks/adopt.yml")
    for path in written.iterdir():
        path.rename(folder.parent / path.name)
    found["text"] = play("playbooks/adopt.yml", "--extra-vars=peat_allow_anywhere=true")
    found["check"] = play("playbooks/adopt.yml", "--check", "--extra-vars", json.dumps({"peat_allow_anywhere": True}))
    found["nothing"] = sorted(path.name for path in written.iterdir())
    for name in ("adopted.yml", "adopted_passwords.yml"):
        (folder.parent / name).rename(written / name)
    found["foretold"] = play("site.yml", "--check")
    found["site"] = play("site.yml")
    found["settled"] = play("site.yml")
    return found


@pytest.fixture(scope="module")
def lists(adopted, folder) -> dict:
    return yaml.safe_load((folder / "group_vars/mysql/adopted.yml").read_text())


@pytest.fixture(scope="module")
def report(adopted) -> dict:
    (result,) = adopted["done"].output_of("What the lists do not say")
    return result["msg"]


def test_the_lists_describe_the_server(lists, lab):
    both = [lab.hosts[name]["address"] for name in ("peat2", "modern")]
    network = both[0].rpartition(".")[0] + ".0/24"
    assert lists["mysql_port"] == 3306
    assert lists["peat_networks"] == [{"name": "farrell-and-guest", "addresses": both}]
    assert {person["name"]: person["from"] for person in lists["peat_people"]} == {
        "farrell": ["farrell-and-guest"],
        "guest": ["farrell-and-guest"],
        "nielsen": [network],
        "pipeline": both[1:],
    }
    assert {project.pop("name"): project for project in lists["peat_projects"]} == {
        "hewlsample": {"clients": "peat2", "write": ["farrell"], "read": ["guest"]},
        "my1sandbox": {"clients": "peat2"},
        "my_sandbox": {"clients": "peat2", "write": [{"person": "farrell", "from": both[:1]}, "nielsen"]},
        "screening": {"clients": "relstorage4", "keep_history": False, "write": ["pipeline"]},
    }


@pytest.mark.parametrize(
    "words",
    [
        ("'farrell'@'%'", "comes from every address"),
        ("/24'", "a host that no list names"),
        ("'archivist'@", "archive"),
        ("the database archive is RelStorage 1.4's", "playbooks/migrate.yml"),
        ("'bookkeeper'@", "no project (accounting)"),
        ("'admin'@", "rights on the whole server"),
        ("'backup'@", "looks like the account of a replication, backup or monitoring service"),
        ("who uses such an account from elsewhere is shut out",),
        ("`my_sandbox`", "so on my1sandbox, too"),
        ("nobody of the list reaches the project my1sandbox",),
    ],
)
def test_what_no_list_can_say_is_told(report, folder, words):
    (remark,) = [text for text in report["not_in_the_lists"] if all(word in text for word in words)]
    comments = (folder / "group_vars/mysql/adopted.yml").read_text().replace("\n#   ", " ")
    assert f"# - {remark}\n" in comments


def test_a_second_adoption_writes_the_same(adopted):
    assert adopted["again"].ok, adopted["again"].failure
    assert [task for _host, task in adopted["again"].changed if "Adopt |" in task] == []


def test_a_dry_run_writes_nothing(adopted):
    assert adopted["check"].ok, adopted["check"].failure
    assert adopted["nothing"] == []
    assert [task for _host, task in adopted["check"].changed if task.endswith("Write the lists")]


def test_a_dry_run_says_what_it_needs(adopted):
    assert not adopted["bare"].ok
    assert "without the package python3-pymysql the server cannot be read" in adopted["bare"].failure
    assert [task for _host, task in adopted["bare"].changed] == ["Adopt | Python's way to the server"]


def test_accounts_for_every_address_are_adopted_only_if_that_is_said_as_a_boolean(adopted):
    assert not adopted["text"].ok
    assert """-e '{"peat_allow_anywhere": true}'""" in adopted["text"].failure
    assert adopted["check"].ok, adopted["check"].failure
    ((_host, _task, diffs),) = [diff for diff in adopted["check"].diffs if diff[1].endswith("Write the lists")]
    lists = yaml.safe_load(diffs[0][1])
    assert lists["peat_allow_anywhere"] is True
    assert {person["name"] for person in lists["peat_people"] if "%" in str(person)} == {"farrell"}


def test_stored_passwords_are_for_the_owner_only_and_never_shown(adopted, folder):
    path = folder / "group_vars/mysql/adopted_passwords.yml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    stored = yaml.safe_load(path.read_text())["peat_adopted_passwords"]
    assert stored.keys() == {"farrell", "guest", "nielsen", "pipeline"}
    for run in ("done", "again", "check", "foretold", "site", "settled"):
        assert [person for person, text in stored.items() if text in adopted[run].text] == []


def test_site_changes_what_was_said_and_nothing_else(adopted, report):
    for run in ("foretold", "site", "settled"):
        assert adopted[run].ok, adopted[run].failure
    for run in ("foretold", "site"):
        (accounts,) = adopted[run].output_of("Accounts | Everybody")
        assert accounts["steps"] == report["site_yml_will"]
    # A dry run of site.yml installs no package, and so starts none. Adopting says which packages it will be, and of
    # fail2ban no more than that.
    packages = [("old", "firewall : Install | nftables"), ("old", "fail2ban : Install | fail2ban")]
    services = [("old", "fail2ban : Configure | fail2ban runs"), ("old", "fail2ban : Reload fail2ban")]
    foreseen = [change for change in adopted["site"].changed if change not in packages + services]
    assert adopted["foretold"].changed == foreseen
    said = [change for change in adopted["done"].changed if "Adopt |" not in change[1]]
    assert sorted(said) == sorted([*(change for change in foreseen if "fail2ban" not in change[1]), *packages])
    assert set(said) <= set(adopted["site"].changed)
    diffs = [[diff for diff in adopted[run].diffs if "peat :" in diff[1]] for run in ("done", "foretold", "site")]
    assert diffs[0] == diffs[1] == diffs[2] != []
    assert adopted["settled"].changed == []


def test_nobody_gets_a_password_or_loses_one(report):
    assert [step for step in report["site_yml_will"] if "password" in step or step.startswith("drop")] == []


def test_people_log_in_as_before(adopted, by_hand, ask, unused):
    assert ask("peat2", "peat2", "dump", "guest", "hewlsample") == by_hand
    assert ask("peat2", "peat2", "add", "farrell", "hewlsample", prefix=unused)["ok"]
    assert ask("peat2", "peat2", "add", "guest", "hewlsample", prefix=unused)["error"]["number"] == 1044
    assert ask("peat2", "peat2", "add", "nielsen", "my_sandbox", prefix=unused)["ok"]
    assert ask("modern", "relstorage4", "add", "pipeline", "screening", prefix=unused, history_free=True)["ok"]


def test_what_was_left_out_is_left_alone(adopted, host, lab):
    done = host.run(
        "mariadb -BNe \"SELECT user, host FROM mysql.user WHERE host LIKE '%/24' OR host = '%' ORDER BY user\""
    )
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["farrell", "nielsen"]
    backup = host.check_output(f"mariadb -BNe \"SHOW GRANTS FOR backup@'{lab.hosts['modern']['address']}'\"")
    assert "GRANT SELECT, LOCK TABLES, SHOW VIEW, TRIGGER ON `hewlsample`.*" in backup
    assert host.run("mariadb -BNe 'SELECT COUNT(*) FROM archive.object_state'").stdout.strip() != "0"


def test_who_is_in_no_list_is_shut_out_nevertheless(adopted, hosts, old):
    # by_hand logged in this way.
    assert knock(hosts["peat2"], old["address"], 3306) == "open"
    assert knock(hosts["peat2"], old["address6"], 3306) == "ConnectionRefusedError"


def test_an_edited_list_is_not_overwritten_unless_asked(adopted, folder, play):
    path = folder / "group_vars/mysql/adopted.yml"
    kept = path.read_text()
    path.write_text(kept.replace("mysql_port: 3306", "mysql_port: 3306  # as ever"))
    run = play("playbooks/adopt.yml", "--extra-vars=peat_adopt_replace=false")
    assert not run.ok
    assert "adopted.yml was edited since it was written" in run.failure
    assert "# as ever" in path.read_text()
    run = play("playbooks/adopt.yml", "--extra-vars=peat_adopt_replace=true")
    assert run.ok, run.failure
    assert "# as ever" not in path.read_text()


def test_lists_of_somebody_elses_are_not_overridden(adopted, folder, play):
    (folder / "group_vars/mysql/adopted.yml").rename(folder / "group_vars/mysql/lists.yml")
    run = play("playbooks/adopt.yml")
    assert not run.ok
    assert "the inventory has peat_networks, peat_people, peat_projects already" in run.failure
