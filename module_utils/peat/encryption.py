"""What a person needs on their own machine for encrypted connections: texts and arguments, from plain values.

PEAT 2.3 gets a forwarder (stunnel). The drivers of RelStorage 3 and 4 take arguments; measured with PyMySQL
1.2 and mysqlclient 2.2 on MariaDB's client library 11.8, where `ssl` alone makes mysqlclient encrypt but
believe any server.
"""

from __future__ import annotations

import ipaddress

#: Beside the sheet: the authority by which a client verifies the server, and a person's own certificate.
AUTHORITY = "ca.crt"
CONFIGURATION = "peat-forwarder.conf"

#: What RelStorage calls them, in the order in which a sheet has them.
DRIVERS = ("PyMySQL", "MySQLdb")

UNIX = "unix"
WINDOWS = "windows"

#: By system: what to install, where the two files go, how to start it.
STEPS = {
    "Linux": (
        "Install stunnel with the package manager (Debian, Ubuntu: apt install stunnel4).",
        f"Put {AUTHORITY} and {CONFIGURATION} into one folder, open a terminal in it and run: stunnel {CONFIGURATION}",
    ),
    "macOS": (
        "Install stunnel with Homebrew: brew install stunnel",
        f"Put {AUTHORITY} and {CONFIGURATION} into one folder, open a terminal in it and run: stunnel {CONFIGURATION}",
    ),
    "Windows": (
        "Install stunnel from https://www.stunnel.org/downloads.html",
        f"Put {AUTHORITY} into the folder config of the installation, and the text below into stunnel.conf there in"
        " place of what it holds; then start stunnel from the menu.",
    ),
}


def forwarder(server: str, port: int, system: str = UNIX) -> str:
    """Return the configuration of a person's stunnel: PEAT connects to 127.0.0.1 and this port.

    It refuses any server but the lab's.
    """
    lines = []
    if system == UNIX:
        lines += ["foreground = yes", "pid =", ""]
    lines += [
        "[peat]",
        "client = yes",
        f"accept = 127.0.0.1:{port}",
        f"connect = {server}:{port}",
        f"CAfile = {AUTHORITY}",
        "verifyChain = yes",
        f"{'checkIP' if _is_address(server) else 'checkHost'} = {server}",
        "sslVersionMin = TLSv1.2",
        "; PEAT is left open overnight.",
        "TIMEOUTidle = 604800",
    ]
    return "\n".join(lines) + "\n"


def driver_arguments(driver: str, authority: str = AUTHORITY, certificate: str = "", key: str = "") -> dict:
    """Return what to add to MySQLAdapter(...) so that a connection is encrypted and the server verified.

    `driver` is PyMySQL or MySQLdb (mysqlclient). `certificate` and `key` are files of the person's own, where
    the account asks for them.
    """
    files = {"ca": authority}
    if certificate:
        files.update(cert=certificate, key=key)
    if driver == "PyMySQL":
        return {"ssl": files}
    return {"ssl": files, "ssl_mode": "VERIFY_IDENTITY"}


def option_file(authority: str = AUTHORITY, certificate: str = "", key: str = "") -> str:
    """Return the same as a file for the driver's read_default_file, which makes only PyMySQL verify the server."""
    lines = ["[client]", f"ssl-ca={authority}"]
    if certificate:
        lines += [f"ssl-cert={certificate}", f"ssl-key={key}"]
    return "\n".join(lines) + "\n"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
