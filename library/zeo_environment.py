#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The Python environment that a ZEO server runs in."""

from __future__ import annotations

DOCUMENTATION = r"""
module: zeo_environment
short_description: The Python environment that a ZEO server runs in
description:
  - Every environment has a folder of its own, named after all that it is made of. It is complete before the link
    O(path) leads to it, so a server never sees half of one, and a run that was killed starts over.
  - The environment for Python 2.7 is made by a pinned release of virtualenv, for no current one can make it. pip
    checks the hash of everything it fetches.
  - The environment before is kept, for a server still runs in it. Earlier ones are removed.
options:
  path:
    description: The link to the environment in use.
    type: path
    default: /opt/zeo
  generation:
    description: Part of the folder's name.
    type: str
    choices: [peat2, current]
    required: true
  python:
    description: The interpreter.
    type: path
    required: true
  requirements:
    description: Requirements files with hashes, as text, each installed by a call of pip in the order given.
    type: list
    elements: str
    required: true
  bootstrap:
    description: Requirements of a virtualenv that knows O(python); empty where the interpreter's own module venv does.
    type: str
    default: ""
  programs:
    description: Python programs to put into the environment's folder C(bin), by name.
    type: dict
    default: {}
  options:
    description: Further options of C(pip install), such as C(--index-url=https://pypi.example.org/simple).
    type: list
    elements: str
    default: []
author: PEAT Server maintainers
"""

EXAMPLES = r"""
- zeo_environment:
    generation: current
    python: /usr/bin/python3
    requirements: ["{{ lookup('ansible.builtin.file', 'requirements-current.txt') }}"]
"""

RETURN = r"""
before:
  description: The folder of the environment that was in use; empty for none.
  type: str
  returned: always
folder:
  description: The environment's own folder.
  type: str
  returned: always
"""

import hashlib
import os
import re
import shutil
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.peat import zeo

COMPLETE = "complete"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
GENERATIONS = ["peat2", "current"]


class BuildError(Exception):
    """The environment cannot be made."""


def folder_name(params: dict, version: str) -> str:
    """Return the folder for exactly these parts."""
    parts = [params["python"], version, params["bootstrap"], *params["requirements"]]
    parts += [text for item in sorted(params["programs"].items()) for text in item]
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    return f"{params['path']}-{params['generation']}-{name}"


def python_version(module: AnsibleModule) -> str:
    """Return the interpreter's version; a bare host may not have it yet."""
    if not os.path.exists(module.params["python"]) and module.check_mode:
        return ""
    code, out, err = module.run_command([module.params["python"], "-c", "import sys; print(sys.version)"])
    if code:
        raise BuildError(f"{module.params['python']} does not run: {err.strip()}")
    return out


def build(module: AnsibleModule, folder: str) -> None:
    """Make the environment in its folder, which must keep its name."""
    params = module.params

    def run(*argv: str) -> None:
        code, out, err = module.run_command(
            [*argv], environ_update={"PIP_DISABLE_PIP_VERSION_CHECK": "1", "LC_ALL": "C.UTF-8"}, cwd="/"
        )
        if code:
            raise BuildError(f"`{' '.join(argv)}` ended with code {code}: {(out + err).strip()[-2000:]}")

    def install(python: str, text: str, *options: str) -> None:
        # The host's authorities, not those that an old pip brings.
        trust = [f"--cert={AUTHORITIES}"] if os.path.exists(AUTHORITIES) else []
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(text)
            file.flush()
            fixed = ("-m", "pip", "install", "--quiet", "--no-cache-dir", "--no-deps", "--require-hashes")
            run(python, *fixed, *trust, *options, *params["options"], "--requirement", file.name)

    shutil.rmtree(folder, ignore_errors=True)
    os.umask(0o022)
    if params["bootstrap"]:
        helper = tempfile.mkdtemp(prefix="zeo-virtualenv-")
        try:
            run("/usr/bin/python3", "-m", "venv", helper)
            install(f"{helper}/bin/python", params["bootstrap"], "--only-binary=:all:")
            # Its own copies of pip and setuptools, covered by the hash of virtualenv.
            quiet = ("--quiet", "--no-download", "--no-periodic-update", "--app-data", f"{helper}/data")
            run(f"{helper}/bin/virtualenv", *quiet, "--python", params["python"], folder)
        finally:
            shutil.rmtree(helper)
        options = ("--no-build-isolation",)
    else:
        run(params["python"], "-m", "venv", folder)
        options = ("--only-binary=:all:",)
    for text in params["requirements"]:
        install(f"{folder}/bin/python", text, *options)
    for name, text in params["programs"].items():
        path = f"{folder}/bin/{name}"
        with open(path, "w") as file:
            file.write(f"#!{folder}/bin/python\n{text}")
        os.chmod(path, 0o755)
    with open(os.path.join(folder, COMPLETE), "w"):
        pass


def environments(link: str) -> list[str]:
    """Return the folders of folder_name(); whatever else has a name of that kind is somebody's."""
    where, name = os.path.split(link)
    ours = re.compile(rf"{re.escape(name)}-({'|'.join(GENERATIONS)})-[0-9a-f]{{12}}")
    return [os.path.join(where, entry) for entry in os.listdir(where) if ours.fullmatch(entry)]


def use(folder: str, before: str | None, link: str) -> None:
    """Lead the link to the folder, and remove the environments before the one before."""
    if link == zeo.ENVIRONMENT and os.path.exists(os.path.dirname(zeo.PENDING)):
        with open(zeo.PENDING, "w"):
            pass
    zeo.link(folder, link)
    for old in environments(link):
        if old not in (folder, before):
            shutil.rmtree(old)


def main() -> None:
    """Read, build unless there, report."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": zeo.ENVIRONMENT},
            "generation": {"type": "str", "choices": GENERATIONS, "required": True},
            "python": {"type": "path", "required": True},
            "requirements": {"type": "list", "elements": "str", "required": True},
            "bootstrap": {"type": "str", "default": ""},
            "programs": {"type": "dict", "default": {}},
            "options": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    path = module.params["path"]
    try:
        version = python_version(module)
        folder = folder_name(module.params, version)
        before = os.readlink(path) if os.path.islink(path) else None
        if before is None and os.path.lexists(path):
            raise BuildError(f"{path} is not a link of this role: move it elsewhere, it would be in the way")
        complete = os.path.exists(os.path.join(folder, COMPLETE))
        changed = before != folder or not complete
        if changed and not module.check_mode:
            if not complete:
                build(module, folder)
            use(folder, before, path)
    except (BuildError, OSError) as error:
        module.fail_json(msg=f"The environment of ZEO cannot be made: {error}")
    # Of an interpreter that is not there yet nobody knows the version, which is part of the name.
    shown = folder if version else f"{path}-{module.params['generation']}-*"
    diff = {"before_header": path, "after_header": path, "before": f"{before or ''}\n", "after": f"{shown}\n"}
    module.exit_json(changed=changed, folder=folder, before=before or "", diff=diff if changed else {})


if __name__ == "__main__":
    main()
