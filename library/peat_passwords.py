#!/usr/bin/python
"""Generate the passwords that a lab's list does not give."""

from __future__ import annotations

DOCUMENTATION = r"""
module: peat_passwords
short_description: Generate missing passwords of a lab's people
description:
  - Makes a file with a generated password for each person whose entry gives none.
  - A password that exists is never replaced. Files and directory are readable by their owner only.
  - Meant to run on the controller (C(delegate_to=localhost)). Several servers may share the directory.
options:
  people:
    description: The list C(peat_people).
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The person, also the name of the file.
        type: str
        required: true
      from:
        description: Not used here.
        type: list
        elements: str
        required: true
      password:
        description: The password. Nothing is generated where it is given.
        type: str
      tls:
        description: Not used here.
        type: str
        choices: [optional, required]
        default: optional
  secrets_dir:
    description: The directory of the files. It is made if it is missing.
    type: path
    required: true
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: PEAT Server
"""

EXAMPLES = r"""
- name: Generate missing passwords
  peat_passwords:
    people: "{{ peat_people }}"
    secrets_dir: "{{ inventory_dir }}/secrets"
  delegate_to: localhost
"""

RETURN = r"""
created:
  description: People who got a password.
  type: list
  elements: str
  returned: always
closed:
  description: Paths that others than their owner could read before.
  type: list
  elements: str
  returned: always
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import passwords
from ansible.module_utils.peat.lab import argument_spec


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "people": {**argument_spec()["people"], "required": True, "default": None},
            "secrets_dir": {"type": "path", "required": True, "no_log": False},
        },
        supports_check_mode=True,
    )
    directory = module.params["secrets_dir"]
    people = module.params["people"]
    try:
        known = passwords.resolve(people, directory)
        missing = [name for name, password in known.items() if password is None]
        files = [passwords.file_of(directory, name) for name in known]
        opened = [path for path in files if passwords.is_open(path, passwords.FILE_MODE)]
        if passwords.is_open(directory, passwords.DIRECTORY_MODE):
            opened.insert(0, directory)
        if not module.check_mode:
            if missing:
                os.makedirs(directory, mode=passwords.DIRECTORY_MODE, exist_ok=True)
            for path in opened:
                os.chmod(path, passwords.DIRECTORY_MODE if path == directory else passwords.FILE_MODE)
            missing = [name for name in missing if passwords.create(directory, name)]
    except passwords.PasswordError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg=f"passwords cannot be kept in {directory} ({error.strerror}): "
            "let peat_secrets_dir name a directory that the user who runs Ansible may write"
        )
    module.exit_json(
        changed=bool(missing or opened),
        created=missing,
        closed=opened,
        diff={
            "before": "".join(f"{path}: open to others\n" for path in opened),
            "after": "".join(f"{path}: its owner's only\n" for path in opened)
            + "".join(f"{passwords.file_of(directory, name)}: a generated password\n" for name in missing),
        },
    )


if __name__ == "__main__":
    main()
