"""The password hashes that MariaDB and MySQL keep, computed here so that no clear text travels.

A statement with a clear password can end up in the general log, the process list and a core
file. These functions make what the server stores anyway; a password is compared with what is
stored by hashing it again, never by setting it again.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string

MARIADB_PLUGIN = "mysql_native_password"
MYSQL_PLUGIN = "caching_sha2_password"
PLUGINS = {"mariadb": MARIADB_PLUGIN, "mysql": MYSQL_PLUGIN}

# sha256crypt's own alphabet, least significant six bits first
_ALPHABET = "./" + string.digits + string.ascii_uppercase + string.ascii_lowercase
_SALT_LENGTH = 20  # MySQL's; crypt(3) cuts a salt at 16, so crypt cannot make these hashes
_DIGEST_LENGTH = 43


def new_salt() -> str:
    """Return a random salt of the length MySQL uses, in letters any character set can carry."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_SALT_LENGTH))


def native_hash(password: str) -> str:
    """Return what mysql_native_password stores: ``*`` and the SHA-1 of the SHA-1, in hex."""
    return "*" + hashlib.sha1(hashlib.sha1(password.encode()).digest()).hexdigest().upper()


def sha2_hash(password: str, salt: str, thousands: int = 10) -> str:
    """Return what caching_sha2_password stores: ``$A$00A$``, the salt, sha256crypt's digest.

    ``thousands`` is the number of rounds in thousands (the default of MySQL 9.7.4, which
    stores the same text for the same password and salt).
    """
    digest = _sha256crypt(password.encode(), salt.encode(), thousands * 1000)
    return f"$A${thousands:03X}${salt}{digest}"


def make(password: str, plugin: str, salt: str) -> str:
    """Return what the server stores for a password under a plugin (one without salt ignores it)."""
    return native_hash(password) if plugin == MARIADB_PLUGIN else sha2_hash(password, salt)


def written(stored: str, plugin: str) -> str:
    """Return a stored hash as an inventory writes it: MySQL's in hex, because its salt may be any bytes."""
    return stored if plugin == MARIADB_PLUGIN else "0x" + stored.encode().hex()


def unwritten(text: str, plugin: str) -> str | None:
    """Return the stored hash that an inventory writes, None if it is not one of this plugin."""
    found = written_plugin(text)
    if found is None or found != plugin:
        return None
    return text if plugin == MARIADB_PLUGIN else bytes.fromhex(text[2:]).decode()


def written_plugin(text: str) -> str | None:
    """Return the plugin whose hash an inventory writes like this, None if it is none that clients here can use."""
    if re.fullmatch(r"\*[0-9A-F]{40}", text):
        return MARIADB_PLUGIN
    # $A$00A$, then salt and digest; ASCII only.
    length = len("$A$005$") + _SALT_LENGTH + _DIGEST_LENGTH
    return MYSQL_PLUGIN if re.fullmatch(rf"0x244124(?:[0-7][0-9a-fA-F]){{{length - 3}}}", text) else None


def verifies(password: str, plugin: str, stored: str) -> bool:
    """Whether ``stored``, as the server keeps it for ``plugin``, is this password's hash."""
    if plugin == MARIADB_PLUGIN:
        made = native_hash(password)
    elif plugin == MYSQL_PLUGIN and len(stored) == len("$A$005$") + _SALT_LENGTH + _DIGEST_LENGTH:
        try:
            thousands = int(stored[3:6], 16)
        except ValueError:
            return False
        made = sha2_hash(password, stored[7 : 7 + _SALT_LENGTH], thousands)
    else:
        return False
    return hmac.compare_digest(made.encode(), stored.encode())


def digest(password: str, stored: str) -> str | None:
    """Return what may be remembered to see quickly that a password and a hash still belong together.

    Comparing by caching_sha2_password's hash costs milliseconds for each person, on purpose: whoever
    has the hash shall be slow to try passwords. A fast digest would undo that for a password that
    can be guessed, and a key beside it would only help against thieves who get one without the
    other. So there is one only for what looks generated: 24 random letters (142 bits)
    are found by nobody, however fast a guess is. For any other password this returns None, and the
    hash is computed each time.
    """
    if not _looks_generated(password):
        return None
    return hmac.new(password.encode(), stored.encode(), hashlib.sha256).hexdigest()


def _looks_generated(password: str) -> bool:
    """Whether a password is as `passwords.generate` makes them; words that people choose repeat letters."""
    return (
        re.fullmatch(r"[A-Za-z0-9_]{24,}", password) is not None
        and not password.islower()
        and not password.isupper()
        and len(set(password)) >= 15
    )


def _sha256crypt(password: bytes, salt: bytes, rounds: int) -> str:
    """Return the 43 letters of SHA-crypt with SHA-256 (https://akkadia.org/drepper/SHA-crypt.txt).

    The specification cuts the salt at 16 bytes; MySQL does not, nor does this.
    """

    def sha(*parts: bytes) -> bytes:
        return hashlib.sha256(b"".join(parts)).digest()

    def stretched(block: bytes, length: int) -> bytes:
        return (block * (length // len(block) + 1))[:length]

    second = sha(password, salt, password)
    first = [password, salt, stretched(second, len(password))]
    bits = len(password)
    while bits:
        first.append(second if bits & 1 else password)
        bits >>= 1
    digest = sha(*first)
    p = stretched(sha(password * len(password)), len(password))
    s = stretched(sha(salt * (16 + digest[0])), len(salt))
    # What stands before and after the digest repeats every 2 * 3 * 7 rounds.
    rounds_of_42 = []
    for number in range(42):
        middle = (s if number % 3 else b"") + (p if number % 7 else b"")
        rounds_of_42.append((p + middle, b"") if number & 1 else (b"", middle + p))
    sha256 = hashlib.sha256
    for number in range(rounds):
        before, after = rounds_of_42[number % 42]
        digest = sha256(before + digest + after).digest()
    # Three bytes make four letters; the specification takes them in this order, the last two alone.
    text, triple = "", (0, 10, 20)
    for _ in range(10):
        text += _letters(bytes(digest[index] for index in triple), 4)
        triple = (triple[2] + 1, triple[0] + 1, triple[1] + 1)
    return text + _letters(digest[31:29:-1], 3)


def _letters(block: bytes, count: int) -> str:
    """Return ``count`` letters of a big-endian number, its least significant six bits first."""
    number = int.from_bytes(block, "big")
    return "".join(_ALPHABET[number >> 6 * place & 63] for place in range(count))
