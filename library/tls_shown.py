#!/usr/bin/python
"""Tell which certificate a port of this host shows."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tls_shown
short_description: Which certificate a service of this host shows
description:
  - Connects to a port of this host that speaks TLS from its first byte, and changes nothing. A service that read its
    certificate before a new one was placed shows the old one until it reads it again.
options:
  port:
    description: The port.
    type: int
    required: true
attributes:
  check_mode:
    support: full
author: PEAT Server
"""

EXAMPLES = r"""
- name: Which certificate the forwarder shows
  tls_shown:
    port: 8081
  register: shown
"""

RETURN = r"""
fingerprint:
  description: SHA-256 of the certificate; empty if nothing answers there.
  type: str
  returned: always
"""

import hashlib
import socket
import ssl

from ansible.module_utils.basic import AnsibleModule

_SECONDS = 5


def fingerprint(port: int) -> str:
    """Return the fingerprint of what a port shows, whoever issued it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("localhost", port), _SECONDS) as plain, context.wrap_socket(plain) as shown:
            return hashlib.sha256(shown.getpeercert(True)).hexdigest()
    except OSError:
        return ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={"port": {"type": "int", "required": True}}, supports_check_mode=True)
    module.exit_json(changed=False, fingerprint=fingerprint(module.params["port"]))


if __name__ == "__main__":
    main()
