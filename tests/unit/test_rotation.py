"""Rotation: what reaches a server, in which order, and what is left on the disk wherever a run is stopped."""

import contextlib
import dataclasses
import json
import os

import pytest
from peat import accounts, auth, passwords, rotation
from peat.account_state import Account, Login, State
from run_module import run_module

OLD, NEW, THIRD = "Old-password-1234", "New-password-1234", "Third-password-123"
FLAVOURS = ("mariadb", "mysql")
HERE, THERE = Account("farrell", "192.0.2.0/255.255.255.0"), Account("farrell", "fd00:1:%")
GUEST = Account("guest", "192.0.2.7")
BY_HAND = Account("farrell", "203.0.113.9")


def stored(flavour, password):
    return auth.make(password, auth.PLUGINS[flavour], "saltsaltsaltsaltsalt")


def server(flavour, password=OLD, spare=False, **other):
    login = Login(auth.PLUGINS[flavour], stored(flavour, password), spare=spare)
    return State(
        flavour,
        accounts=dict.fromkeys((HERE, THERE, GUEST, BY_HAND), login),
        registered=frozenset((HERE, THERE, GUEST)),
        **other,
    )


def statements(plan):
    return [step.sql for step in (*plan.steps, *plan.last_steps)]


def shown(flavour, password):
    text = stored(flavour, password)
    return f"'{text}'" if flavour == "mariadb" else f"0x{text.encode().hex()}"


def rotate(state, new=NEW, **options):
    return rotation.rotate(state, {"farrell": new}, new_salt=lambda: "saltsaltsaltsaltsalt", **options)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_all_accounts_of_a_person_change_in_one_statement_after_the_overlap_is_remembered(flavour):
    create, remember, alter = statements(rotate(server(flavour)))
    assert create.startswith("CREATE TABLE IF NOT EXISTS peat_server.password_overlap")
    assert remember == "REPLACE INTO peat_server.password_overlap VALUES ('farrell', UTC_DATE())"
    new, old = shown(flavour, NEW), shown(flavour, OLD)
    one = {
        "mariadb": f"IDENTIFIED VIA mysql_native_password USING {new} OR mysql_native_password USING {old}",
        "mysql": f"IDENTIFIED WITH caching_sha2_password AS {new} RETAIN CURRENT PASSWORD",
    }[flavour]
    assert alter == f"ALTER USER {HERE.sql} {one}, {THERE.sql} {one}"


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_second_run_has_nothing_to_do(flavour):
    state = server(flavour, NEW, spare=True, overlapping={"farrell": "2026-01-02"})
    assert statements(rotate(state)) == []


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_one_account_that_an_interrupted_run_left_is_changed(flavour):
    state = server(flavour, NEW, spare=True, overlapping={"farrell": "2026-01-02"})
    state.accounts[THERE] = Login(auth.PLUGINS[flavour], stored(flavour, OLD))
    alter = statements(rotate(state))[-1]
    assert THERE.sql in alter and HERE.sql not in alter


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_no_clear_password_is_in_any_statement_or_text(flavour):
    for options in ({"overlap": True}, {"overlap": False}):
        plan = rotate(server(flavour), **options)
        text = repr(plan) + json.dumps(
            [*statements(plan), *(step.about for step in plan.steps), plan.before, plan.after]
        )
        assert NEW not in text and OLD not in text
        assert stored(flavour, NEW) not in plan.before + plan.after + repr(plan)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("login", [("", ""), ("auth_socket", ""), ("auth_socket", "somebody")])
def test_what_is_no_password_is_not_kept(flavour, login):
    """An empty password beside the new one would let in everybody."""
    state = server(flavour)
    for account in (HERE, THERE):
        state.accounts[account] = Login(*login)
    state.accounts[HERE] = Login(auth.PLUGINS[flavour], "")
    alter = statements(rotate(state))[-1]
    assert " OR " not in alter and "RETAIN" not in alter


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_third_password_is_refused_before_anything_changes(flavour):
    state = server(flavour, spare=True, overlapping={"farrell": "2026-01-02"})
    with pytest.raises(rotation.RotationError, match=r"farrell is not finished.*peat_rotate_mode=finish"):
        rotate(state)
    with pytest.raises(rotation.RotationError, match="farrell is not finished"):
        rotate(state, None)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_password_of_the_inventory_is_refused_where_it_is_old(flavour):
    with pytest.raises(rotation.RotationError, match=r"of farrell.*change the variable"):
        rotate(server(flavour, NEW), given=["farrell"])
    assert "ALTER USER" in statements(rotate(server(flavour), given=["farrell"]))[-1]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_finishing_leaves_the_new_password_alone(flavour):
    state = server(flavour, NEW, spare=True, overlapping={"farrell": "2026-01-02"})
    discard, forget = statements(rotation.finish(state, {"farrell": NEW}))
    one = {
        "mariadb": f"IDENTIFIED VIA mysql_native_password USING {shown(flavour, NEW)}",
        "mysql": "DISCARD OLD PASSWORD",
    }[flavour]
    assert discard == f"ALTER USER {HERE.sql} {one}, {THERE.sql} {one}"
    assert forget == "DELETE FROM peat_server.password_overlap WHERE user IN ('farrell')"


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("known", [OLD, None])
def test_finishing_is_refused_where_nobody_knows_what_would_remain(flavour, known):
    state = server(flavour, NEW, spare=True, overlapping={"farrell": "2026-01-02"})
    with pytest.raises(rotation.RotationError, match="of farrell is not the one of this inventory"):
        rotation.finish(state, {"farrell": known})


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_leaked_password_ends_with_its_sessions_and_every_older_one(flavour):
    state = server(flavour, spare=True, overlapping={"farrell": "2026-01-02"}, unsettled=frozenset({"guest"}))
    plan = rotate(state, overlap=False)
    sent = statements(plan)
    assert sent[0] == "INSERT INTO peat_server.unsettled_user VALUES ('farrell')"
    assert "RETAIN" not in "".join(sent) and " OR " not in "".join(sent)
    assert ("DISCARD OLD PASSWORD" in sent[1]) == (flavour == "mysql")
    assert shown(flavour, NEW) in [step.sql for step in plan.steps][-1]
    assert plan.ending == {"farrell"}
    assert [step.sql for step in plan.last_steps] == [
        "DELETE FROM peat_server.unsettled_user WHERE user IN ('farrell')",
        "DELETE FROM peat_server.password_overlap WHERE user IN ('farrell')",
    ]


def test_sessions_that_an_interrupted_run_did_not_end_are_ended():
    plan = rotate(server("mariadb", NEW, unsettled=frozenset({"farrell"})), overlap=False)
    assert plan.ending == {"farrell"}
    assert statements(plan) == ["DELETE FROM peat_server.unsettled_user WHERE user IN ('farrell')"]


def test_what_site_would_remember_of_mysqls_passwords_is_remembered():
    generated = passwords.generate()
    state = server(
        "mysql",
        registry=frozenset({"verified_password", "password_overlap"}),
        verified=frozenset({("farrell", "old"), ("guest", "his")}),
    )
    plan = rotate(state, generated)
    removed, added = statements(plan)[-2:]
    assert removed == "DELETE FROM peat_server.verified_password WHERE (user, digest) IN (('farrell', 'old'))"
    digest = auth.digest(generated, stored("mysql", generated))
    assert added == f"INSERT INTO peat_server.verified_password VALUES ('farrell', '{digest}')"


# What site.yml makes of it


def site(state, password=NEW):
    need = accounts.Need(password, "")
    wanted = accounts.Wanted(dict.fromkeys((HERE, THERE), need), {}, ())
    return accounts.plan(state, wanted, new_salt=lambda: "saltsaltsaltsaltsalt")


def both(flavour, overlapping):
    """A server in the middle of a rotation of farrell."""
    state = server(
        flavour,
        NEW,
        spare=True,
        overlapping=overlapping,
        registry=accounts.registry_tables(flavour) | {"password_overlap"},
    )
    del state.accounts[GUEST], state.accounts[BY_HAND]
    for account in (HERE, THERE):
        state.accounts[account] = dataclasses.replace(state.accounts[account], expires=False)
    return dataclasses.replace(state, registered=frozenset((HERE, THERE)))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_site_leaves_an_overlap_alone_and_reports_it(flavour):
    plan = site(both(flavour, {"farrell": "2026-01-02"}))
    assert [step.about for step in plan.steps] == []
    assert any("farrell (since 2026-01-02)" in text and "peat_rotate_mode=finish" in text for text in plan.findings)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_site_discards_a_second_password_that_no_rotation_made(flavour):
    plan = site(both(flavour, {}))
    assert len([step for step in plan.steps if step.sql.startswith("ALTER USER")]) >= 1


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_site_discards_both_where_the_list_wants_another_password(flavour):
    state = both(flavour, {"farrell": "2026-01-02"})
    text = "".join(step.sql for step in site(state, THIRD).steps)
    assert shown(flavour, THIRD) in text
    assert "DELETE FROM peat_server.password_overlap WHERE user IN ('farrell')" in text
    assert ("DISCARD OLD PASSWORD" in text) == (flavour == "mysql")


# The files

PEOPLE = [
    {"name": "farrell", "from": ["192.0.2.7"]},
    {"name": "guest", "from": ["192.0.2.7"]},
    {"name": "nielsen", "from": ["192.0.2.7"], "password": "correct-horse-9"},
]


@pytest.fixture
def secrets(tmp_path):
    folder = tmp_path / "secrets"
    run_module("peat_passwords", people=PEOPLE, secrets_dir=str(folder))
    return folder


def files(secrets, state, check=False, **options):
    result = run_module("peat_passwords", people=PEOPLE, secrets_dir=str(secrets), state=state, check=check, **options)
    del result["invocation"]
    result["warnings"] = json.dumps(result.get("warnings", []))
    return result


def test_a_rotation_of_files_from_beginning_to_end(secrets):
    before = passwords.resolve(PEOPLE, str(secrets))
    chosen = files(secrets, "chosen", rotate=["all"])
    assert (chosen["chosen"], chosen["given"], chosen["unknown"]) == (["farrell", "guest"], [], ["farrell", "guest"])
    begun = files(secrets, "begun", rotate=chosen["chosen"])
    during = passwords.resolve(PEOPLE, str(secrets))
    assert (begun["created"], begun["unknown"]) == (["farrell", "guest"], [])
    assert all(before[name] != during[name] for name in ("farrell", "guest")) and during["nielsen"] == before["nielsen"]
    assert (secrets / "farrell").read_text().strip() == before["farrell"], "the old one is still there"
    for place, mode in ((".rotation", 0o700), (".rotation/farrell", 0o600)):
        assert os.stat(secrets / place).st_mode & 0o777 == mode
    assert files(secrets, "chosen", rotate=["all"])["unknown"] == []
    assert files(secrets, "begun", rotate=chosen["chosen"])["changed"] is False
    assert files(secrets, "ended")["replaced"] == ["farrell", "guest"]
    assert passwords.resolve(PEOPLE, str(secrets)) == during
    assert sorted(os.listdir(secrets)) == ["farrell", "guest"]
    assert files(secrets, "ended")["changed"] is False
    for result in (chosen, begun):
        assert not [secret for secret in (*before.values(), *during.values()) if secret in json.dumps(result)]


def test_check_mode_changes_no_file_and_predicts_the_same(secrets):
    before = sorted(path.read_text() for path in secrets.iterdir())
    predicted = [
        files(secrets, "begun", check=True, rotate=["farrell"]),
        files(secrets, "ended", check=True, rotate=["farrell"]),
    ]
    assert sorted(path.read_text() for path in secrets.iterdir()) == before
    assert predicted[0]["unknown"] == ["farrell"]
    done = [files(secrets, "begun", rotate=["farrell"]), files(secrets, "ended", rotate=["farrell"])]
    assert [(p["changed"], p["diff"]) for p in predicted] == [(d["changed"], d["diff"]) for d in done]


@pytest.mark.parametrize(
    ("rotate", "text"),
    [
        ([], "nobody's password was changed: say whose, with -e peat_rotate=NAME"),
        ([""], "nobody's password was changed: say whose, with -e peat_rotate=NAME"),
        (["farell"], "peat_rotate names farell, but no entry of peat_people does"),
    ],
)
def test_a_request_for_nobody_is_refused(secrets, rotate, text):
    result = files(secrets, "chosen", rotate=rotate)
    assert result["failed"] is True and text in result["msg"]


def test_who_is_on_the_way_is_not_left_out(secrets):
    files(secrets, "begun", rotate=["farrell"])
    refused = files(secrets, "chosen", rotate=["guest"])
    assert refused["failed"] is True and "-e peat_rotate=farrell,guest" in refused["msg"]
    assert files(secrets, "chosen", rotate=["guest"], finish=True)["chosen"] == ["guest"]
    assert "-e peat_rotate=farrell" in files(secrets, "present")["warnings"]


def test_a_server_that_was_not_reached_keeps_the_old_files(secrets):
    files(secrets, "begun", rotate=["farrell"])
    result = files(secrets, "ended", unreached=["second"])
    assert result["changed"] is False and "second does not have" in result["warnings"]
    assert passwords.pending(str(secrets)) == ["farrell"]


class Stopped(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("calls", range(1, 14))
def test_a_run_stopped_anywhere_leaves_the_new_passwords_known_and_is_finished(secrets, monkeypatch, calls):
    """Whatever the last call was that the process made of the system."""
    old = passwords.resolve(PEOPLE, str(secrets))
    passwords.begin(str(secrets), ["farrell", "guest"])
    new = passwords.resolve(PEOPLE, str(secrets))
    left = [calls]

    def counted(function):
        def call(*arguments, **options):
            if left[0] == 0:
                raise Stopped
            left[0] -= 1
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for name in ("rename", "replace", "unlink", "rmdir", "fsync", "listdir"):
            patched.setattr(os, name, counted(getattr(os, name)))
        with contextlib.suppress(Stopped):
            passwords.end(str(secrets))
    assert passwords.resolve(PEOPLE, str(secrets)) == new
    result = files(secrets, "chosen", rotate=["farrell"])
    if passwords.pending(str(secrets)):
        assert (result["changed"], result["unknown"]) == (False, [])
        files(secrets, "ended")
    assert passwords.resolve(PEOPLE, str(secrets)) == new != old
    assert sorted(os.listdir(secrets)) == ["farrell", "guest"]


def test_a_run_that_only_had_files_left_says_so_and_rotates_nobody(secrets):
    passwords.begin(str(secrets), ["farrell"])
    os.rename(secrets / ".rotation", secrets / ".rotated")
    predicted = files(secrets, "chosen", check=True, rotate=["farrell"])
    assert (secrets / ".rotated/farrell").exists()
    result = files(secrets, "chosen", rotate=["farrell"])
    assert result == predicted
    assert result["changed"] is True and "nobody's password was changed again" in result["warnings"]


def test_new_passwords_open_to_others_are_closed(secrets):
    passwords.begin(str(secrets), ["farrell"])
    (secrets / ".rotation/farrell").chmod(0o644)
    (secrets / ".rotation").chmod(0o755)
    closed = run_module("peat_passwords", people=PEOPLE, secrets_dir=str(secrets))["closed"]
    assert closed == [str(secrets / ".rotation"), str(secrets / ".rotation/farrell")]
    assert os.stat(secrets / ".rotation/farrell").st_mode & 0o777 == 0o600
