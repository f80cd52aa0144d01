"""Asks a MySQL or MariaDB server for TLS as a client does, and tells what it got (Python 3, no other module).

usage: tls_probe.py SERVER PORT [--version TLSv1_1] [--ca FILE] [--name NAME] [--certificate FILE] [--at-once true]
       with --at-once TLS begins with the connection, as a forwarder's does
       tls_probe.py self --version TLSv1_1       the same with a server of its own: can this machine do it at all?

Prints {"ok": true, "version", "fingerprint", "subject", "names", "not_after"} or {"ok": false, "error"}.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import socket
import ssl
import struct
import subprocess
import tempfile
import threading

SSL_CAPABILITY = 0x800
PROTOCOL_41, SECURE_CONNECTION = 0x200, 0x8000


def read_exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise ConnectionError("the server hung up")
        data += more
    return data


def ask_for_tls(connection: socket.socket) -> None:
    """Read the server's greeting and answer with the request that TLS begins after."""
    length = read_exactly(connection, 4)
    greeting = read_exactly(connection, int.from_bytes(length[:3], "little"))
    if greeting[0] == 0xFF:
        raise ConnectionError(greeting[3:].decode(errors="replace"))
    rest = greeting[greeting.index(b"\0", 1) + 1 :]
    if not struct.unpack_from("<H", rest, 13)[0] & SSL_CAPABILITY:
        raise ConnectionError("the server offers no TLS")
    request = struct.pack("<IIB23x", SSL_CAPABILITY | PROTOCOL_41 | SECURE_CONNECTION, 1 << 24, 45)
    connection.sendall(len(request).to_bytes(3, "little") + b"\x01" + request)


def context_of(options: argparse.Namespace, role: int) -> ssl.SSLContext:
    context = ssl.SSLContext(role)
    if role == ssl.PROTOCOL_TLS_CLIENT:
        context.check_hostname = bool(options.ca)
        context.verify_mode = ssl.CERT_REQUIRED if options.ca else ssl.CERT_NONE
        if options.ca:
            context.load_verify_locations(options.ca)
            # As Python 3.13 does by default.
            context.verify_flags |= ssl.VERIFY_X509_STRICT
        if options.certificate:
            context.load_cert_chain(options.certificate)
    if options.version:
        # Debian's own configuration permits nothing old.
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = ssl.TLSVersion[options.version]
    return context


def own_server(options: argparse.Namespace) -> socket.socket:
    """Return the client's end of a connection to a server that speaks what was asked for."""
    folder = tempfile.mkdtemp()
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=self -days 1 -keyout key -out crt"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    context = context_of(options, ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/crt", f"{folder}/key")
    ours, theirs = socket.socketpair()
    threading.Thread(target=context.wrap_socket, args=(theirs,), kwargs={"server_side": True}, daemon=True).start()
    return ours


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("server")
    parser.add_argument("port", nargs="?", type=int)
    parser.add_argument("--version")
    parser.add_argument("--ca")
    parser.add_argument("--name")
    parser.add_argument("--certificate")
    parser.add_argument("--at-once", type=bool)
    options = parser.parse_args()
    try:
        if options.server == "self":
            connection = own_server(options)
        else:
            connection = socket.create_connection((options.server, options.port), timeout=10)
            if not options.at_once:
                ask_for_tls(connection)
        name = options.name or options.server
        with context_of(options, ssl.PROTOCOL_TLS_CLIENT).wrap_socket(connection, server_hostname=name) as tls:
            certificate = tls.getpeercert()
            answer = {
                "ok": True,
                "version": tls.version(),
                "fingerprint": hashlib.sha256(tls.getpeercert(True)).hexdigest(),
                "names": sorted(value for _kind, value in certificate.get("subjectAltName", ())),
                "not_after": certificate.get("notAfter"),
            }
    except (OSError, ConnectionError) as error:
        answer = {"ok": False, "error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
