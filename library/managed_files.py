#!/usr/bin/python
"""Keep a set of files and folders as it should be."""

from __future__ import annotations

DOCUMENTATION = r"""
module: managed_files
short_description: Keep a set of small files and folders, with one call
description:
  - Writes files with the given text, each complete or not at all, and makes folders.
  - A file or folder that is as it should be is not touched.
options:
  files:
    description: The files.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where it is. Its folder must be there or in O(directories).
        type: path
        required: true
      content:
        description: The text, which a diff shows.
        type: str
      secret:
        description: The text, in place of C(content), where nothing may show it.
        type: str
      mode:
        description: Mode, as an octal number in quotes.
        type: str
        default: "0644"
  directories:
    description: Folders. The one above must be there or in the list as well.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where it is.
        type: path
        required: true
      mode:
        description: Mode, as an octal number in quotes.
        type: str
        default: "0755"
      group:
        description: Group; that of O(group) if not given.
        type: str
  absent:
    description: Files that must not be there.
    type: list
    elements: path
    default: []
  group:
    description:
      - Group of files and folders. They belong to root.
      - A group that is missing is made as a system group, as the package of a service would that is installed later.
    type: str
    default: root
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: PEAT Server
"""

EXAMPLES = r"""
- name: Certificate and key of a service
  managed_files:
    group: mysql
    directories:
      - {path: /etc/mysql/tls, mode: "0750"}
    files:
      - {path: /etc/mysql/tls/server.crt, mode: "0640", content: "{{ lookup('ansible.builtin.file', 'server.crt') }}"}
      - {path: /etc/mysql/tls/server.key, mode: "0640", secret: "{{ lookup('ansible.builtin.file', 'server.key') }}"}
"""

RETURN = r"""
paths:
  description: What was changed or would be.
  type: list
  elements: str
  returned: always
"""

import grp
import os
import pwd
import stat
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat.files import Entry, Step, plan


def name_of(number: int, look_up) -> str:
    """Return the name of a user or group, its number if it has none."""
    try:
        return look_up(number)[0]
    except KeyError:
        return str(number)


def read(path: str, secret: bool = False):
    """Return what is at a path, None if nothing is."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    text = None
    if not stat.S_ISDIR(status.st_mode):
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    owner, group = name_of(status.st_uid, pwd.getpwuid), name_of(status.st_gid, grp.getgrgid)
    return Entry(path, owner, group, stat.S_IMODE(status.st_mode), text, secret)


def wanted(params: dict) -> list[Entry]:
    """Return the module's lists as entries."""
    owner, group = name_of(os.geteuid(), pwd.getpwuid), params["group"]
    entries = [
        Entry(item["path"], owner, item["group"] or group, int(item["mode"], 8)) for item in params["directories"]
    ]
    for item in params["files"]:
        secret = item["secret"] is not None
        text = item["secret"] if secret else item["content"]
        entries.append(Entry(item["path"], owner, group, int(item["mode"], 8), text, secret))
    return entries


def make_group(module: AnsibleModule, name: str) -> None:
    """Make a system group. By systemd's own means: a bare Debian may have no groupadd."""
    path = f"/etc/sysusers.d/peat-{name}.conf"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        file.write(f"g {name} -\n")
    module.run_command(["systemd-sysusers", path], check_rc=True)


def apply(step: Step) -> None:
    """Make one change."""
    entry = step.wanted
    if entry is None:
        os.unlink(step.path)
        return
    number = grp.getgrnam(entry.group).gr_gid
    if entry.text is None:
        if step.before is None:
            os.mkdir(entry.path, 0o700)
        os.chown(entry.path, -1, number)
        os.chmod(entry.path, entry.mode)
        return
    # A new file gets its owner before it gets its place: at no moment can others read a secret.
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(entry.path), prefix=".new-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(entry.text)
            os.fchown(file.fileno(), -1, number)
            os.fchmod(file.fileno(), entry.mode)
        os.replace(temporary, entry.path)
    except BaseException:
        os.unlink(temporary)
        raise


def main() -> None:
    """Run the module."""
    file = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str"},
        "secret": {"type": "str", "no_log": True},
        "mode": {"type": "str", "default": "0644"},
    }
    directory = {
        "path": {"type": "path", "required": True},
        "mode": {"type": "str", "default": "0755"},
        "group": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": file,
                "mutually_exclusive": [("content", "secret")],
                "required_one_of": [("content", "secret")],
            },
            "directories": {"type": "list", "elements": "dict", "default": [], "options": directory},
            "absent": {"type": "list", "elements": "path", "default": []},
            "group": {"type": "str", "default": "root"},
        },
        supports_check_mode=True,
    )
    params = module.params
    entries = wanted(params)
    found = {entry.path: read(entry.path, entry.secret) for entry in entries}
    found.update((path, read(path)) for path in params["absent"])
    steps = plan(entries, params["absent"], {path: entry for path, entry in found.items() if entry})
    groups = {group.gr_name for group in grp.getgrall()}
    if steps and not module.check_mode:
        if params["group"] not in groups:
            make_group(module, params["group"])
        for step in steps:
            try:
                apply(step)
            except OSError as error:
                module.fail_json(msg=f"{step.path} could not be written: {error.strerror}")
    module.exit_json(changed=bool(steps), paths=[step.path for step in steps], diff=[step.diff for step in steps])


if __name__ == "__main__":
    main()
