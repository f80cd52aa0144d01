#!/usr/bin/python
"""Write the connection sheets of a lab's people."""

from __future__ import annotations

DOCUMENTATION = r"""
module: peat_sheets
short_description: Write one connection sheet per person, as text and as a page
description:
  - Writes C(NAME.txt) and, as a page to open or print, C(NAME.html) for each person with everything a PEAT or
    RelStorage client asks for, readable by its owner only.
  - Removes sheets of people who are no longer listed. Files this module did not write are left alone.
  - Meant to run on the controller (C(delegate_to=localhost)). Each server has a directory of its own.
options:
  dest:
    description: The directory. It is made if it is missing.
    type: path
    required: true
  address:
    description: The name or address of the server as clients reach it.
    type: str
    required: true
  port:
    description: The port of the server.
    type: int
    required: true
  forwarder_port:
    description: The port of the server's forwarder, for people who come through it.
    type: int
    default: 8081
  zeo_port:
    description: Port of ZEO, for projects with C(backend=zeo).
    type: int
    default: 8090
  zeo_tls:
    description: Whether ZEO asks clients for a certificate.
    type: bool
    default: false
  passwords:
    description: The password of each person by name, null where it is not generated yet.
    type: dict
    required: true
  networks:
    description: The list C(peat_networks).
    type: list
    elements: dict
    default: []
  people:
    description: The list C(peat_people).
    type: list
    elements: dict
    default: []
  projects:
    description: The list C(peat_projects).
    type: list
    elements: dict
    default: []
  allow_anywhere:
    description: Whether the address C(%) may be used.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: PEAT Server
"""

EXAMPLES = r"""
- name: Write the connection sheets
  peat_sheets:
    dest: "{{ inventory_dir }}/sheets/{{ inventory_hostname }}"
    address: peat.example.org
    port: 8080
    passwords: "{{ peat_people | peat_passwords(peat_secrets_dir) }}"
    networks: "{{ peat_networks }}"
    people: "{{ peat_people }}"
    projects: "{{ peat_projects }}"
  delegate_to: localhost
"""

RETURN = r"""
written:
  description: Names of new and changed sheets.
  type: list
  elements: str
  returned: always
removed:
  description: Names of removed sheets.
  type: list
  elements: str
  returned: always
"""

import os
import stat
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import sheets
from ansible.module_utils.peat.lab import LabError, argument_spec, load

DIRECTORY_MODE = 0o700


def read(directory: str) -> dict[str, str]:
    """Return the text of every file in the directory that has a sheet's name."""
    if not os.path.isdir(directory):
        return {}
    texts = {}
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if name.endswith(sheets.SUFFIXES) and os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                texts[name] = file.read()
    return texts


def open_to_others(directory: str, names: list[str]) -> list[str]:
    """Return the paths, of the directory and of sheets in it, that others than the owner can use."""
    paths = [directory, *(os.path.join(directory, name) for name in names)]
    return [path for path in paths if os.path.exists(path) and stat.S_IMODE(os.stat(path).st_mode) & 0o077]


def write(directory: str, name: str, text: str) -> None:
    """Put a file in place, complete or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".new-")  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, os.path.join(directory, name))
    except BaseException:
        os.unlink(temporary)
        raise


def apply(directory: str, plan: sheets.Plan, opened: list[str]) -> None:
    """Do what was planned."""
    if plan.write:
        os.makedirs(directory, mode=DIRECTORY_MODE, exist_ok=True)
    for path in opened:
        os.chmod(path, DIRECTORY_MODE if path == directory else sheets.MODE)
    for name, (_before, text) in plan.write.items():
        write(directory, name, text)
    for name in plan.remove:
        os.unlink(os.path.join(directory, name))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **argument_spec(),
            "dest": {"type": "path", "required": True},
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "forwarder_port": {"type": "int", "default": 8081},
            "zeo_port": {"type": "int", "default": 8090},
            "zeo_tls": {"type": "bool", "default": False},
            "passwords": {"type": "dict", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    directory = params["dest"]
    try:
        lab = load(params["networks"], params["people"], params["projects"], params["allow_anywhere"])
        ports = {name: params[name] for name in ("port", "forwarder_port", "zeo_port", "zeo_tls")}
        server = sheets.Server(params["address"], **ports)
        wanted = sheets.render_all(lab, server, params["passwords"])
        plan = sheets.plan(read(directory), wanted)
        opened = open_to_others(directory, sorted(wanted))
        if not module.check_mode:
            apply(directory, plan, opened)
    except (LabError, sheets.SheetError) as error:
        module.fail_json(msg=f"no sheet was written to {directory}: {error}")
    except OSError as error:
        module.fail_json(
            msg=f"sheets cannot be kept in {directory} ({error.strerror}): "
            "let peat_sheets_dir name a directory that the user who runs Ansible may write"
        )
    module.exit_json(
        changed=bool(plan.write or plan.remove or opened),
        written=sorted(plan.write),
        removed=sorted(plan.remove),
        diff=[
            *plan.diffs(directory),
            *({"before": f"{path}: open to others\n", "after": f"{path}: its owner's only\n"} for path in opened),
        ],
    )


if __name__ == "__main__":
    main()
