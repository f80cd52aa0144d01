#!/usr/bin/python
"""Generate the passwords that a lab's list does not give, and new ones for a rotation."""

from __future__ import annotations

DOCUMENTATION = r"""
module: peat_passwords
short_description: Generate missing passwords of a lab's people
description:
  - Makes a file with a generated password for each person whose entry gives none.
  - A password that exists is replaced by a rotation only. Files and directories are readable by their owner only.
  - A rotation has three parts. The state V(chosen) says whose passwords are meant and puts away what an interrupted
    run left, V(begun) puts new passwords beside the old ones, and once the servers have them, V(ended) lets them
    replace the old ones.
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
      password_hash:
        description: Of a password that is kept. Nothing is generated where it is given.
        type: str
      tls:
        description: Not used here.
        type: str
        choices: [offered, required, certificate, forwarder, optional]
        default: offered
  secrets_dir:
    description: The directory of the files. It is made if it is missing.
    type: path
    required: true
  state:
    description: V(present) generates missing passwords, the others are the parts of a rotation.
    type: str
    choices: [present, chosen, begun, ended]
    default: present
  rotate:
    description:
      - With V(chosen), whose passwords, or C(all). With V(begun), whose passwords.
      - With V(ended), in check mode, who would have got one.
    type: list
    elements: str
    default: []
  finish:
    description: With V(chosen), whether nobody gets a new password.
    type: bool
    default: false
  unreached:
    description: With V(ended), servers that do not have the new passwords yet. Then they stay beside the old ones.
    type: list
    elements: str
    default: []
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

- name: Generate a new password for farrell
  peat_passwords:
    people: "{{ peat_people }}"
    secrets_dir: "{{ inventory_dir }}/secrets"
    state: begun
    rotate: [farrell]
  delegate_to: localhost
"""

RETURN = r"""
created:
  description: People who got a password.
  type: list
  elements: str
  returned: with the state present or begun
closed:
  description: Paths that others than their owner could read before.
  type: list
  elements: str
  returned: with the state present
chosen:
  description: Whose passwords are rotated.
  type: list
  elements: str
  returned: with the state chosen
given:
  description: Those of them whose password the list gives.
  type: list
  elements: str
  returned: with the state chosen
unknown:
  description: Those of them whose new password is not generated yet.
  type: list
  elements: str
  returned: with the state chosen or begun
replaced:
  description: People whose new password replaced the old one.
  type: list
  elements: str
  returned: with the state ended
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import passwords
from ansible.module_utils.peat.lab import argument_spec


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "people": {**argument_spec()["people"], "required": True, "default": None},
            "secrets_dir": {"type": "path", "required": True, "no_log": False},
            "state": {"type": "str", "choices": list(STATES), "default": "present"},
            "rotate": {"type": "list", "elements": "str", "default": []},
            "finish": {"type": "bool", "default": False},
            "unreached": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    directory = module.params["secrets_dir"]
    try:
        module.exit_json(**STATES[module.params["state"]](module, directory, module.params["people"]))
    except passwords.PasswordError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg=f"passwords cannot be kept in {directory} ({error.strerror}): "
            "let peat_secrets_dir name a directory that the user who runs Ansible may write"
        )


def present(module: AnsibleModule, directory: str, people: list) -> dict[str, Any]:
    """Generate what is missing."""
    known = passwords.resolve(people, directory)
    kept = {person["name"] for person in people if person["password_hash"] is not None}
    missing = [name for name, password in known.items() if password is None and name not in kept]
    opened = passwords.opened(directory, known)
    if not module.check_mode:
        if missing:
            os.makedirs(directory, mode=passwords.DIRECTORY_MODE, exist_ok=True)
        for path in opened:
            os.chmod(path, passwords.DIRECTORY_MODE if os.path.isdir(path) else passwords.FILE_MODE)
        missing = [name for name in missing if passwords.create(directory, name)]
    left = [name for name in passwords.pending(directory) if name in known]
    if left:
        module.warn(
            f"not every server has the new passwords of {', '.join(left)} yet: finish their rotation with"
            f" playbooks/rotate-passwords.yml -e peat_rotate={','.join(left)}"
        )
    return {
        "changed": bool(missing or opened),
        "created": missing,
        "closed": opened,
        "diff": {
            "before": "".join(f"{path}: open to others\n" for path in opened),
            "after": "".join(f"{path}: its owner's only\n" for path in opened)
            + "".join(f"{passwords.file_of(directory, name)}: a generated password\n" for name in missing),
        },
    }


def chosen(module: AnsibleModule, directory: str, people: list) -> dict[str, Any]:
    """Say whose passwords are rotated; put away what an interrupted rotation left at its very end."""
    names = passwords.chosen(module.params["rotate"], people, directory, module.params["finish"])
    given = [person["name"] for person in people if person["password"] is not None and person["name"] in names]
    begun = passwords.pending(directory)
    ending = passwords.is_ending(directory)
    if ending:
        module.warn(
            "the last rotation was stopped when every server had its new passwords. It is finished now, and nobody's"
            " password was changed again; for another rotation run this once more"
        )
        if not module.check_mode:
            passwords.settle(directory)
    return {
        "changed": ending,
        "chosen": names,
        "given": given,
        "unknown": [name for name in names if name not in (*given, *begun) and not module.params["finish"]],
        "diff": {
            "before": f"{directory}/{passwords.ROTATED}: a rotation that was stopped\n" if ending else "",
            "after": "",
        },
    }


def begun(module: AnsibleModule, directory: str, people: list) -> dict[str, Any]:
    """Put new passwords beside the old ones."""
    given = {person["name"] for person in people if person["password"] is not None}
    missing = [name for name in module.params["rotate"] if name not in given]
    missing = [name for name in missing if name not in passwords.pending(directory)]
    if not module.check_mode:
        missing = passwords.begin(directory, missing)
    return {
        "changed": bool(missing),
        "created": missing,
        "unknown": missing if module.check_mode else [],
        "diff": {
            "before": "",
            "after": "".join(f"{directory}/{passwords.ROTATION}/{name}: a generated password\n" for name in missing),
        },
    }


def ended(module: AnsibleModule, directory: str, _people: list) -> dict[str, Any]:
    """Let the new passwords replace the old ones."""
    names = passwords.pending(directory) or (module.params["rotate"] if module.check_mode else [])
    unreached = module.params["unreached"]
    if names and unreached:
        module.warn(
            f"{', '.join(unreached)} does not have the new passwords of {', '.join(names)} yet: run this again for"
            " every server, without --limit. Until then the others have the new ones"
        )
        names = []
    if names and not module.check_mode:
        passwords.end(directory)
    return {
        "changed": bool(names),
        "replaced": names,
        "diff": {
            "before": "".join(f"{passwords.file_of(directory, name)}: the old password\n" for name in names),
            "after": "".join(f"{passwords.file_of(directory, name)}: the new password\n" for name in names),
        },
    }


STATES = {"present": present, "chosen": chosen, "begun": begun, "ended": ended}

if __name__ == "__main__":
    main()
