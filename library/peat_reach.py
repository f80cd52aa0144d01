#!/usr/bin/python
"""Try from where this runs who gets in to a database or ZEO server, and how."""

from __future__ import annotations

DOCUMENTATION = r"""
module: peat_reach
short_description: Prove from a vantage point who can log in to a server
description:
  - Runs at a vantage point, a host that is somewhere a client may be (C(delegate_to)), which needs Python 3 and nothing
    else. Its controller's part decides by the lab's list what to try, sends PyMySQL along, and judges what came of it.
  - Changes nothing. A vantage point is told the passwords of people who work at its address, and of one person who does
    not.
  - Each way of being refused is tried once per address from which the vantage point comes, so a run makes at most four
    failed logins there. Where the list's people are refused as well, it makes three more.
options:
  name:
    description: What the rows call the server.
    type: str
    required: true
  vantage:
    description: What the rows call the vantage point.
    type: str
    required: true
  backend:
    description: What listens, a database server or a ZEO server.
    type: str
    choices: [relstorage, zeo]
    default: relstorage
  addresses:
    description: Names and addresses by which clients call the server.
    type: list
    elements: str
    required: true
  port:
    description: The port of the server.
    type: int
    required: true
  forwarder_port:
    description: The port of the forwarder, if there is one.
    type: int
  doors:
    description: Further ports that speak TLS from their first byte, mappings C({port, sources, why}) with the networks
      that may connect and, in words, why others may not.
    type: list
    elements: dict
    default: []
  lab:
    description: The lab, as the filter C(peat_lab) returns it.
    type: dict
    required: true
  passwords:
    description: Passwords by name; who has null is not tried.
    type: dict
    default: {}
  encrypted:
    description: Whether the server shows a certificate that O(authority) verifies, or a ZEO server asks for one.
    type: bool
    default: false
  fingerprint:
    description: SHA-256 of the certificate that the server is to show; empty to take any that O(authority) verifies.
    type: str
    default: ""
  authority:
    description: File on the controller with the authorities by which clients verify the server.
    type: path
  certificates_dir:
    description: Directory on the controller with people's certificates, C(NAME.client.crt) and C(NAME.client.key).
    type: path
attributes:
  check_mode:
    support: full
author: PEAT Server
"""

EXAMPLES = r"""
- name: Who gets in from here
  peat_reach:
    name: "{{ inventory_hostname }}"
    vantage: laptop
    addresses: [peat.example.org]
    port: 8080
    lab: "{{ peat_networks | peat_lab({}) }}"
    passwords: "{{ peat_people | peat_passwords(peat_secrets_dir) }}"
  delegate_to: laptop
"""

RETURN = r"""
rows:
  description: What was found, mappings C({server, check, found, ok}).
  type: list
  elements: dict
  returned: always
"""

import hashlib
import os
import socket
import ssl
import sys
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import verification

# Nothing this module says has a password in it; its arguments have.
_INVOCATION = {"module_args": "left out, for they have passwords"}
_SECONDS = 5
_MOST = 64
# What no protocol begins with: a server that waits for TLS refuses it at once.
_NONSENSE = b"\0\0\0\2no"


def main() -> None:
    """Run one of the two parts that the controller asks for."""
    module = AnsibleModule(
        argument_spec={
            "targets": {"type": "list", "elements": "str"},
            "tries": {"type": "raw", "no_log": True},
            "target": {"type": "str"},
            "address": {"type": "str"},
            "backend": {"type": "str", "default": "relstorage"},
            "authority": {"type": "str", "default": ""},
            "certificates": {"type": "dict", "default": {}, "no_log": True},
            "driver": {"type": "path"},
            "most_refusals": {"type": "int", "default": verification.MOST_REFUSALS},
        },
        supports_check_mode=True,
    )
    # By now the journal has the call, without these; see _INVOCATION.
    module.no_log_values.clear()
    params = module.params
    if params["targets"] is not None:
        module.exit_json(changed=False, ways=ways(params["targets"]), invocation=_INVOCATION)
    if params["driver"]:
        sys.path.insert(0, params["driver"])
    module.exit_json(changed=False, answers=answers(params), invocation=_INVOCATION)


def ways(targets: list) -> list:
    """Return (target, its address, the address from which it is reached), each address of it once."""
    found = {}
    for target in targets:
        try:
            resolved = socket.getaddrinfo(target, None, type=socket.SOCK_DGRAM)
        except OSError:
            continue
        for family, _type, _protocol, _name, address in resolved:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                try:
                    # No packet is sent; the kernel only looks which way it would go.
                    probe.connect((address[0], 9, *address[2:]))
                except OSError:
                    continue
                found.setdefault(address[0], (target, address[0], probe.getsockname()[0]))
    return list(found.values())


def answers(params: dict) -> list:
    """Return what came of each try; after too many unwanted refusals the others are left."""
    found = []
    of_opening, other = (greet, greet) if params["backend"] == "zeo" else (show, log_in)
    attempts = {verification.CLOSED: knock, verification.OPEN: of_opening}
    for one in params["tries"]:
        refused = verification.unwanted(params["tries"], found)
        if one["about"] == verification.IN and (one["password"] is None or refused >= params["most_refusals"]):
            found.append({"skipped": True, "text": "not tried"})
            continue
        found.append(attempts.get(one["about"], other)(params, one))
    return found


def knock(params: dict, one: dict) -> dict:
    """Return whether a port can be connected to."""
    try:
        socket.create_connection((params["address"], one["port"]), _SECONDS).close()
    except OSError as error:
        return {"text": str(error)}
    return {"in": True, "text": "connected"}


def context(params: dict, one: dict) -> ssl.SSLContext:
    """Return how a client of the lab encrypts, with the person's certificate if there is one."""
    if not params["authority"]:
        encrypts = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        encrypts.check_hostname = False
        encrypts.verify_mode = ssl.CERT_NONE
        return encrypts
    encrypts = ssl.create_default_context(cadata=params["authority"])
    certificate = params["certificates"].get(one.get("user"))
    if certificate and one.get("certified", True):
        # The library only reads files. Mode 0600, in a folder that is removed with it.
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "certificate")
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(certificate)
            encrypts.load_cert_chain(path)
    return encrypts


def encrypted_socket(params: dict, one: dict) -> ssl.SSLSocket:
    """Return a connection that is encrypted from its first byte."""
    plain = socket.create_connection((params["address"], one["port"]), _SECONDS)
    return context(params, one).wrap_socket(plain, server_hostname=params["target"])


def certificate_of(connection: ssl.SSLSocket) -> dict:
    """Return which TLS a connection uses, and which certificate was shown, as far as it is verified."""
    certificate = connection.getpeercert() or {}
    return {
        "tls": connection.version(),
        "not_after": certificate.get("notAfter", ""),
        "fingerprint": hashlib.sha256(connection.getpeercert(True)).hexdigest(),
    }


def show(params: dict, one: dict) -> dict:
    """Return what a port shows that speaks TLS at once."""
    try:
        with encrypted_socket(params, one) as connection:
            return {"in": True, "text": "with TLS", **certificate_of(connection)}
    except OSError as error:
        return {"text": str(error)}


def log_in(params: dict, one: dict) -> dict:
    """Return what came of a login at a database server."""
    import pymysql

    shown, options = {}, {"ssl_disabled": True}
    if one["way"] == verification.VERIFIED:
        options = {"ssl": context(params, one)}
    elif one["way"] == verification.AS_OFFERED:
        options = {}
    try:
        if one["way"] == verification.THROUGH:
            way = encrypted_socket(params, one)
            shown = certificate_of(way)
        else:
            way = socket.create_connection((params["address"], one["port"]), _SECONDS)
        # The host is the name that the server's certificate has to have.
        connection = pymysql.connect(
            host=params["target"],
            user=one["user"],
            password=one["password"],
            read_timeout=2 * _SECONDS,
            defer_connect=True,
            **options,
        )
        connection.connect(way)
    except pymysql.MySQLError as error:
        number, text = (*error.args, "")[:2]
        return {"number": number, "text": f"{text} ({number})", "seen": None}
    except (OSError, RuntimeError) as error:
        # RuntimeError: a way to log in that needs another library.
        return {"text": str(error)}
    with connection, connection.cursor() as cursor:

        def query(text: str) -> list:
            cursor.execute(text)
            return list(cursor.fetchall())

        # Not what the server says of itself: PyMySQL has put TLS around the socket in its place.
        if one["way"] == verification.VERIFIED:
            shown = certificate_of(connection._sock)
        ((client,),) = query("SELECT USER()")
        return {
            "in": True,
            "text": "logged in",
            "databases": [name for (name,) in query("SHOW DATABASES")],
            "seen": None if one["way"] == verification.THROUGH else client.rpartition("@")[2],
            **shown,
        }


def greet(params: dict, one: dict) -> dict:
    """Return whether a ZEO server says its first words, which it does once it lets somebody in."""
    reached = False
    try:
        if one["way"] == verification.VERIFIED:
            # Whether the certificate is asked for shows in what comes next.
            connection = encrypted_socket(params, one)
        else:
            connection = socket.create_connection((params["address"], one["port"]), _SECONDS)
        reached = True
        with connection:
            if one["about"] == verification.UNENCRYPTED:
                connection.sendall(_NONSENSE)
            size = int.from_bytes(read(connection, 4), "big")
            if not 0 < size <= _MOST:
                return {"reached": True, "text": "it does not speak ZEO's protocol"}
            said = read(connection, size).decode(errors="replace")
            shown = {}
            if one["way"] == verification.VERIFIED:
                shown = certificate_of(connection)
            return {"in": True, "reached": True, "text": f"ZEO protocol {said}", **shown}
    except ssl.SSLError as error:
        return {"reached": True, "text": str(error)}
    except OSError as error:
        return {"reached": reached, "text": str(error)}


def read(connection: socket.socket, count: int) -> bytes:
    """Return exactly so many bytes."""
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise ConnectionError("the server hung up")
        data += more
    return data


if __name__ == "__main__":
    main()
