"""The password hashes that MariaDB and MySQL keep, computed here so that no clear text travels.

A statement with a clear password can end up in the general log, the process list and a core
file. These functions make what the server stores anyway; a password is compared with what is
stored by hashing it again, never by setting it again.
"""

from __future__ import annotations

import hashlib
import hmac
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
    for number in range(rounds):
        odd = number & 1
        digest = sha(
            p if odd else digest,
            s if number % 3 else b"",
            p if number % 7 else b"",
            digest if odd else p,
        )
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
