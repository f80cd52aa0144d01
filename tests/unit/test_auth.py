"""The hashes are the servers' own, and a stored one is recognised without setting it again."""

from __future__ import annotations

import pytest
from peat import auth, passwords

PASSWORD = "Ein Satz, ein Wort"
# What the servers stored for CREATE USER ... IDENTIFIED BY 'Ein Satz, ein Wort'.
MARIADB_10_11 = "*75EC365FB1D29F310BE825E4C3834887EF9ABCDF"
MYSQL_9_7 = bytes.fromhex(
    "24412430304124790D7F7F516E10237E771D165159186A6A426112727968535A2F493770316C712E546B534C785346454E54704243333157"
    "64314747364D70524C4750617736"
).decode()


def test_native_hash_is_the_servers():
    assert auth.native_hash(PASSWORD) == MARIADB_10_11


@pytest.mark.parametrize(
    ("password", "salt", "thousands", "digest"),
    [
        # The first two of the specification's own examples with rounds in thousands.
        ("Hello world!", "saltstring", 5, "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
        ("Hello world!", "saltstringsaltst", 10, "3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA"),
    ],
)
def test_sha2_digest_is_the_specifications(password, salt, thousands, digest):
    assert auth.sha2_hash(password, salt, thousands).endswith(salt + digest)


@pytest.mark.parametrize(
    ("plugin", "stored"), [("mysql_native_password", MARIADB_10_11), ("caching_sha2_password", MYSQL_9_7)]
)
def test_a_stored_hash_is_recognised(plugin, stored):
    assert auth.verifies(PASSWORD, plugin, stored)
    assert not auth.verifies(PASSWORD + ".", plugin, stored)
    assert not auth.verifies("", plugin, stored)


@pytest.mark.parametrize("plugin", ["mysql_native_password", "caching_sha2_password"])
@pytest.mark.parametrize("password", ["x" * 12, "Pass 'with' \\ and \"", "long" * 40])
def test_what_is_made_is_recognised(plugin, password):
    stored = auth.make(password, plugin, auth.new_salt())
    assert auth.verifies(password, plugin, stored)
    assert password not in stored


@pytest.mark.parametrize(
    ("plugin", "stored"),
    [
        ("mysql_native_password", ""),
        ("mysql_native_password", "invalid"),
        ("caching_sha2_password", ""),
        ("caching_sha2_password", "$A$005$THISISACOMBINATIONOFINVALIDSALTANDPASSWORDTHATMUSTNEVERBRBEUSED"),
        ("caching_sha2_password", MYSQL_9_7.replace("$A$00A$", "$A$XXX$")),
        ("unix_socket", ""),
        ("mysql_native_password", MYSQL_9_7),
    ],
)
def test_anything_else_is_another_password(plugin, stored):
    assert not auth.verifies(PASSWORD, plugin, stored)
    assert not auth.verifies("", plugin, stored)


def test_salts_are_fresh_and_fit():
    salts = {auth.new_salt() for _ in range(100)}
    assert len(salts) == 100
    assert {len(salt) for salt in salts} == {20}
    assert all(salt.isascii() and "$" not in salt for salt in salts)


@pytest.mark.parametrize(
    ("plugin", "stored", "written"),
    [
        ("mysql_native_password", MARIADB_10_11, MARIADB_10_11),
        ("caching_sha2_password", MYSQL_9_7, "0x" + MYSQL_9_7.encode().hex()),
    ],
)
def test_an_inventory_carries_a_stored_hash_whatever_its_salt(plugin, stored, written):
    assert auth.written(stored, plugin) == written
    assert auth.unwritten(written, plugin) == stored
    assert auth.written_plugin(written) == plugin


@pytest.mark.parametrize("text", ["", "*75EC", MYSQL_9_7, "0x2441", MARIADB_10_11.lower(), "a password"])
def test_what_no_client_could_log_in_with_is_no_hash(text):
    assert auth.written_plugin(text) is None


def test_a_hash_of_the_other_server_is_of_no_use():
    assert auth.unwritten(MARIADB_10_11, "caching_sha2_password") is None


def test_a_digest_is_of_one_password_and_one_hash():
    generated = passwords.generate()
    assert auth.digest(generated, "one") == auth.digest(generated, "one")
    assert len({auth.digest(generated, "one"), auth.digest(generated, "two"), auth.digest(generated[::-1], "one")}) == 3


@pytest.mark.parametrize(
    "chosen",
    [
        "the password of ann",
        "correcthorsebatterystaple",
        "CorrectHorseBatteryHorses",
        "abcdefghijklmnopqrstuvwxyz",
        "ABCabc0123456789",
        "Aa0" * 20,
    ],
)
def test_of_a_password_that_can_be_guessed_nothing_is_kept(chosen):
    assert auth.digest(chosen, "stored") is None
