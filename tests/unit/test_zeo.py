"""The configuration of a ZEO server, what a change of it takes, and what of a list it cannot keep."""

import pytest
from peat import zeo, zeo_lab
from peat.lab import load

A = zeo.Storage("a", "/var/lib/zeo/a", False)
B = zeo.Storage("b", "/srv/b", True)


def server(*storages, **values):
    return zeo.Server(
        **{"generation": "current", "storages": storages, "port": 8090, "transaction_timeout": 120, **values}
    )


def project(name, clients="current", state="present"):
    return {"name": name, "clients": clients, "state": state}


def refused(function, *arguments):
    with pytest.raises(zeo.ZeoError) as caught:
        function(*arguments)
    return str(caught.value)


# Layout


def test_a_host_has_one_generation():
    assert zeo.generation([]) is None
    assert zeo.generation([project("a"), project("b")]) == "current"
    text = refused(zeo.generation, [project("a"), project("b", "peat2"), project("c")])
    assert "current (a, c)" in text and "peat2 (b)" in text


def test_every_project_has_a_folder():
    layout = zeo.layout(
        [project("a"), project("b", state="frozen"), project("c", state="absent")], "/var/lib/zeo", {"b": "/srv/b/"}
    )
    assert layout.served == (A, B)
    assert layout.absent == {"c": "/var/lib/zeo/c"}


@pytest.mark.parametrize("path", ["zeo", "", "/", "/srv/a b", "/srv/$a", "/srv/../etc", 7])
def test_a_folder_is_a_plain_absolute_path(path):
    assert "zeo_data_dir" in refused(zeo.layout, [project("a")], path, {})
    assert "zeo_project_dirs: a" in refused(zeo.layout, [project("a")], "/var/lib/zeo", {"a": path or "/"})


def test_a_folder_belongs_to_a_project():
    assert "'tpyo'" in refused(zeo.layout, [project("a")], "/var/lib/zeo", {"tpyo": "/srv/a"})


def test_two_projects_have_two_folders():
    zeo.check_folders({"a": "/srv/a", "b": "/srv/ab"})
    assert "'a' and 'b' have one folder" in refused(zeo.check_folders, {"a": "/srv/x", "b": "/srv/x"})
    assert "in each other" in refused(zeo.check_folders, {"a": "/srv/x/y", "b": "/srv/x"})


def test_a_file_system_of_fstab_has_to_be_there():
    declared = zeo.fstab_points(
        "# <file system>\nUUID=1 / ext4 x 0 1\n/dev/sdb1\t/var/lib/zeo ext4 x\n/dev/sdc1 /my\\040disk ext4 x\n"
    )
    assert declared == ["/", "/var/lib/zeo", "/my disk"]
    paths = ["/var/lib/zeo", "/var/lib/zeo/a", "/var/lib/zeolite"]
    assert zeo.missing_mounts(paths, declared, ["/"]) == [(path, "/var/lib/zeo") for path in paths[:2]]
    assert zeo.missing_mounts(paths, declared, ["/", "/var/lib/zeo"]) == []


# Files


def test_config_has_a_storage_for_each_project():
    text = zeo.config(server(A, B))
    assert zeo.storages_of(text) == {"a": "/var/lib/zeo/a/Data.fs", "b": "/srv/b/Data.fs"}
    assert zeo.port_of(text) == 8090
    assert text.count("read-only true") == 1
    assert "authentication" not in text and "<ssl>" not in text


def test_only_peat2_has_passwords_and_only_tls_has_certificates():
    assert f"authentication-database {zeo.USERS}" in zeo.config(server(A, generation="peat2"))
    text = zeo.config(server(A, tls=("/c.pem", "/k.pem", "/ca.pem"), tls_content="1234"))
    assert "    certificate /c.pem\n    key /k.pem\n    authenticate /ca.pem\n" in text


def test_digest_is_that_of_zeo():
    # As zeopasswd of ZEO 4.3.1 wrote it, without a realm.
    assert zeo.user_file({"farrell": "right-password"}) == "farrell: d627145a45f388fba1802c214893243a3936cd43\n"


def test_unit_may_write_to_the_folders_and_nowhere_else():
    unit = zeo.unit(["/var/lib/zeo", "/srv/b"], 8090)
    assert "\nReadWritePaths=/var/lib/zeo /srv/b\n" in unit and "\nRequiresMountsFor=/var/lib/zeo /srv/b\n" in unit
    assert "\nProtectHome=yes\n" in unit
    assert "\nProtectHome=read-only\n" in zeo.unit(["/home/zeo"], 8090)


# What a change takes


def test_the_same_needs_no_restart_nor_does_a_remark_or_the_runner():
    text = zeo.config(server(A))
    assert zeo.config_reasons(text, text) == []
    other = text.replace("# Written", "# Once written").replace("backoff-limit 10", "backoff-limit 11")
    assert other != text
    assert zeo.config_reasons(text, other) == []


@pytest.mark.parametrize(
    ("before", "after", "reasons"),
    [
        (server(A), server(A, B), ["storage b is new"]),
        (server(A, B), server(A), ["storage b is no longer served"]),
        (server(A), server(zeo.Storage("a", A.folder, True)), ["storage a has other settings"]),
        (server(A), server(A, port=8091), ["port 8090 -> 8091"]),
        (server(A), server(A, transaction_timeout=60), ["it has other settings"]),
        (
            server(A, tls=("/c", "/k", "/a"), tls_content="1"),
            server(A, tls=("/c", "/k", "/a"), tls_content="2"),
            ["it has other settings"],
        ),
    ],
)
def test_restarts_say_why(before, after, reasons):
    assert zeo.config_reasons(zeo.config(before), zeo.config(after)) == reasons


def test_users_are_read_once_and_never_shown():
    old = zeo.user_file({"farrell": "one", "nielsen": "two"})
    new = zeo.user_file({"farrell": "other", "guest": "three"})
    assert zeo.user_reasons(old, old) == []
    assert zeo.user_reasons(old, new) == [
        "user guest is new",
        "user nielsen is removed",
        "user farrell has another password",
    ]
    assert zeo.without_digests(new) == "farrell: (digest)\nguest: (digest)\n"


# The list


LISTS = {
    "networks": [],
    "people": [
        {"name": "farrell", "from": ["192.0.2.7"]},
        {"name": "nielsen", "from": ["192.0.2.7"], "tls": "required"},
        {"name": "visitor", "from": ["203.0.113.9"]},
    ],
}


def zeo_problems(*projects, **options):
    projects = [{"backend": "zeo", "clients": "current", **values} for values in projects]
    options = {"tls": True, "shared_access": False, "port": 8090, "other_port": None, **options}
    return zeo_lab.problems(load(**LISTS, projects=projects), **options)


def test_projects_of_the_same_people_are_fine():
    members = {"write": ["farrell", "nielsen"]}
    assert zeo_problems({"name": "a", **members}, {"name": "b", **members}) == []
    assert zeo_problems({"name": "a", **members}, {"name": "gone", "write": ["visitor"], "state": "absent"}) == []


def test_more_separation_than_zeo_has_is_refused_unless_accepted():
    projects = ({"name": "a", "write": ["farrell", "nielsen"]}, {"name": "b", "write": ["farrell"]})
    (problem,) = zeo_problems(*projects)
    assert "'b' would also be open to nielsen at 192.0.2.7" in problem and "zeo_shared_access" in problem
    assert zeo_problems(*projects, shared_access=True) == []


def test_a_project_that_nobody_is_in_counts():
    (problem,) = zeo_problems({"name": "a", "write": ["farrell"]}, {"name": "b"})
    assert "'b' would also be open to farrell" in problem


def test_without_authentication_only_addresses_count():
    same_address = ({"name": "a", "write": ["farrell"]}, {"name": "b", "write": ["farrell"]})
    assert zeo_problems(*same_address, tls=False) == []
    (first, second) = zeo_problems({"name": "a", "write": ["farrell"]}, {"name": "b", "write": ["visitor"]}, tls=False)
    assert "'a' would also be open to everybody at 203.0.113.9" in first
    assert "'b' would also be open to everybody at 192.0.2.7" in second


def test_who_insists_on_tls_gets_no_server_without():
    (problem,) = zeo_problems({"name": "a", "write": ["nielsen"]}, tls=False)
    assert "'nielsen' has tls: required" in problem


def test_two_servers_of_a_host_have_two_ports():
    (problem,) = zeo_problems({"name": "a"}, other_port=8090)
    assert "zeo_port and mysql_port are both 8090" in problem


def test_users_are_those_with_access():
    projects = [
        {"name": "a", "backend": "zeo", "clients": "peat2", "write": ["farrell"]},
        {"name": "b", "backend": "zeo", "clients": "peat2", "write": ["visitor"], "state": "absent"},
        {"name": "c", "clients": "peat2", "write": ["visitor"]},
    ]
    assert zeo_lab.users(load(**LISTS, projects=projects)) == ["farrell"]
