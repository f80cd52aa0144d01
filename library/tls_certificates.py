#!/usr/bin/python
"""Ansible module: the certificates of one server and of the people who log in to it with one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tls_certificates
short_description: Certificates of a server and of its people, from a private authority of the lab
description:
  - Runs on the controller (C(delegate_to=localhost)). Keeps the authority in one directory beside the inventory, its
    key encrypted, and makes what is missing, about to expire, or for other names and addresses than wanted.
  - A server's certificate may also be given by the administrator. Then it is only checked.
  - Servers of one lab may run it at the same time; they share the authority.
options:
  state:
    description:
      - V(read) changes nothing and tells what there is.
    type: str
    choices: [present, read]
    default: present
  directory:
    description: Directory of the authority. Each server has a directory in it.
    type: path
    required: true
  host:
    description: Name of the server in the inventory.
    type: str
    required: true
  addresses:
    description: Names and addresses, IPv4 and IPv6, by which clients call the server.
    type: list
    elements: str
    required: true
  clients:
    description: People who get a certificate of their own. Those of others are removed from O(clients_directory).
    type: list
    elements: str
    default: []
  clients_directory:
    description:
      - Directory for people's certificates and for what they need to verify the server's. Without it people's
        certificates are left alone.
    type: path
  certificate:
    description: A certificate given by the administrator, followed by those of intermediate authorities.
    type: path
  key:
    description: Its private key.
    type: path
  authority:
    description: Certificates of the authorities by which clients verify O(certificate).
    type: path
  passphrase:
    description: Opens the authority's key. Without it one is generated and kept beside the key.
    type: str
  authority_name:
    description: Name of the authority, for a new one.
    type: str
    default: PEAT Server CA
  days:
    description: How long a certificate is good.
    type: int
    default: 397
  renew_days:
    description: So many days before its end a certificate is made anew.
    type: int
    default: 30
requirements:
  - cryptography
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Shows names and dates, never a key.
author: PEAT Server
"""

EXAMPLES = r"""
- name: Certificates of this server
  tls_certificates:
    directory: "{{ inventory_dir }}/tls"
    host: "{{ inventory_hostname }}"
    addresses: [peat.example.org, 192.0.2.1, "2001:db8::1"]
    clients: [pipeline]
    clients_directory: "{{ inventory_dir }}/sheets/{{ inventory_hostname }}"
  delegate_to: localhost
"""

RETURN = r"""
files:
  description:
    - The server's files on the controller, C(name) and C(src). In check mode, one that would be made is empty.
  type: list
  elements: dict
  returned: always
fingerprint:
  description: SHA-256 of the server's certificate; V(new) for one that is not there yet, and not made in check mode.
  type: str
  returned: always
people:
  description: Subject and issuer of each person's certificate, as an account demands them.
  type: dict
  returned: always
  sample: {pipeline: {subject: /CN=pipeline/serialNumber=5f3a, issuer: /CN=PEAT Server CA}}
expiry:
  description: What expires when.
  type: list
  elements: dict
  returned: always
  sample: [{name: server, path: tls/server/server.crt, not_after: "2027-12-24", days_left: 397}]
missing:
  description: In words, which certificates that are wanted are not there, if O(state) is not V(present).
  type: list
  elements: str
  returned: always
expiring:
  description: In words, what has fewer than 14 days left after this run.
  type: list
  elements: str
  returned: always
"""

import contextlib
import datetime
import fcntl
import glob
import os
import tempfile
from dataclasses import dataclass, field

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible.module_utils.peat import pki
except ImportError as error:
    pki, MISSING = None, error

#: Stands for a file that a run without check mode would make.
NOTHING = "/dev/null"
CLIENT_SUFFIX = ".client"
_OTHERS = 0o077


@dataclass
class Plan:
    """What is to be written (path: text), made private, removed; and what comes of it."""

    now: datetime.datetime
    writes: dict = field(default_factory=dict, repr=False)
    removes: list = field(default_factory=list)
    closes: list = field(default_factory=list)
    before: list = field(default_factory=list)
    after: list = field(default_factory=list)
    expiry: list = field(default_factory=list)
    missing: list = field(default_factory=list)
    people: dict = field(default_factory=dict)
    fingerprint: str = "new"

    @property
    def changed(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.writes or self.removes or self.closes)


class Files:
    """Names of the files, and what is in them."""

    def __init__(self, params: dict) -> None:
        """Keep the module's parameters."""
        self.own = os.path.join(params["directory"], params["host"])
        self.authority = os.path.join(params["directory"], "ca.crt")
        self.authority_key = os.path.join(params["directory"], "ca.key")
        self.passphrase = os.path.join(params["directory"], "ca.passphrase")
        self.clients = params["clients_directory"]

    def server(self, name: str) -> str:
        """Return the path of one of the server's files."""
        return os.path.join(self.own, name)

    def client(self, person: str, suffix: str) -> str:
        """Return the path of one of a person's files."""
        return os.path.join(self.clients, person + CLIENT_SUFFIX + suffix)

    def others_clients(self, people: list) -> list:
        """Return the paths, without suffix, of certificates of people who are to have none."""
        if not self.clients:
            return []
        ending = CLIENT_SUFFIX + ".crt"
        found = glob.glob(os.path.join(glob.escape(self.clients), f"*{ending}"))
        return sorted(path[:-4] for path in found if os.path.basename(path)[: -len(ending)] not in people)


def read(path: str) -> bytes | None:
    """Return what is in a file, None if there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def read_pair(certificate: str, key: str):
    """Return a certificate and its key, None unless both exist."""
    texts = read(certificate), read(key)
    if None in texts:
        return None
    return pki.Pair(pki.certificates_of(texts[0], certificate)[0], pki.key_of(texts[1], key))


class Planner:
    """Decides what is to be done; makes keys only where they are to be written."""

    def __init__(self, params: dict, check_mode: bool, now: datetime.datetime) -> None:
        """Read what there is of the authority."""
        self.params, self.check_mode = params, check_mode
        self.files, self.plan = Files(params), Plan(now)
        text = read(self.files.authority)
        self.authority = pki.certificates_of(text, self.files.authority)[0] if text else None
        self.authority_key = None
        self.secret = params["passphrase"] or (read(self.files.passphrase) or b"").decode().strip() or None

    def run(self) -> Plan:
        """Return the plan."""
        given = self.params["certificate"]
        if self.params["clients"] or not given:
            self.keep_authority()
        trusted = [] if self.authority is None else [pki.certificate_text(self.authority)]
        if given:
            for_clients = self.give_server()
            trusted = [for_clients, *(trusted if self.params["clients"] else [])]
        else:
            for_clients = trusted[0] if trusted else b""
            self.issue_server()
        for person in self.params["clients"]:
            self.issue_client(person)
        for path in self.files.others_clients(self.params["clients"]):
            self.plan.removes += [path + ".crt", path + ".key"]
            self.plan.before.append(f"{os.path.basename(path)}: a certificate")
        self.put(self.files.server("ca.crt"), b"".join(trusted))
        if self.files.clients:
            self.put(os.path.join(self.files.clients, "ca.crt"), for_clients)
        for path in (self.files.authority_key, self.files.passphrase, self.files.server("server.key")):
            if path not in self.plan.writes and os.path.exists(path) and os.stat(path).st_mode & _OTHERS:
                self.plan.closes.append(path)
                self.plan.before.append(f"{path}: open to others")
                self.plan.after.append(f"{path}: its owner's only")
        return self.plan

    def look(self) -> Plan:
        """Return what there is, and what is missing."""
        people, given = self.params["clients"], self.params["certificate"]
        wanted = {} if given and not people else {"the authority": self.files.authority}
        wanted[self.params["host"]] = given or self.files.server("server.crt")
        wanted.update((person, self.files.client(person, ".crt")) for person in people)
        for called, path in wanted.items():
            text = read(path)
            if text is None:
                self.plan.missing.append(f"the certificate of {called} ({path}) is missing")
                continue
            certificate = pki.certificates_of(text, path)[0]
            self.remember(called, path, certificate)
            if called == self.params["host"]:
                self.plan.fingerprint = pki.fingerprint(certificate)
        return self.plan

    def put(self, path: str, text: bytes) -> None:
        """Plan a file unless it is so already."""
        if read(path) != text:
            self.plan.writes[path] = text

    def keep_authority(self) -> None:
        """Plan the authority: a new one, or a new certificate for its key before the old one expires."""
        days, name = 10 * self.params["days"], self.params["authority_name"]
        if self.authority is None:
            reason = "there is none"
            if os.path.exists(self.files.authority_key):
                # Its certificate was removed, or the first run was killed: what it issued stays good.
                key = self.open_key()
            else:
                key = pki.new_key()
                if self.secret is None:
                    self.secret = pki.new_passphrase()
                    self.plan.writes[self.files.passphrase] = self.secret.encode() + b"\n"
                self.plan.writes[self.files.authority_key] = pki.key_text(key, self.secret)
        else:
            reason, key = pki.why_authority_anew(self.authority, self.plan.now, self.params["days"]), None
            if reason is None:
                self.remember("the authority", self.files.authority, self.authority)
                return
            name = pki.subject_text(self.authority.subject).removeprefix("/CN=")
            key = self.open_key()
        pair = pki.new_authority(name, key, self.plan.now, days)
        self.note("the authority", self.authority, pair.certificate, reason)
        self.authority, self.authority_key = pair.certificate, key
        self.plan.writes[self.files.authority] = pki.certificate_text(pair.certificate)
        self.remember("the authority", self.files.authority, pair.certificate)

    def open_key(self):
        """Return the authority's private key."""
        if self.authority_key is None:
            path, text = self.files.authority_key, read(self.files.authority_key)
            if text is None or self.secret is None:
                lost = path if text is None else f"{self.files.passphrase}, or tls_passphrase,"
                raise pki.PkiError(f"{lost} is missing: without it the authority can issue nothing")
            self.authority_key = pki.key_of(text, path, self.secret)
        return self.authority_key

    def issue(self, request, certificate: str, key: str, called: str):
        """Plan a certificate of ours; return it."""
        before = read_pair(certificate, key)
        reason = pki.why_anew(before, request, self.authority, self.plan.now, self.params["renew_days"])
        if reason is None:
            self.remember(called, certificate, before.certificate)
            return before.certificate
        authority = pki.Pair(self.authority, self.open_key())
        renewed = before.certificate if before and pki.signed_by(before.certificate, self.authority) else None
        pair = pki.issue(request, authority, self.plan.now, self.params["days"], renewed)
        self.plan.writes[certificate] = pki.certificate_text(pair.certificate)
        self.plan.writes[key] = pki.key_text(pair.key)
        self.note(called, before and before.certificate, pair.certificate, reason)
        self.remember(called, certificate, pair.certificate)
        return pair.certificate

    def issue_server(self) -> None:
        """Plan the server's certificate."""
        request = pki.Request(pki.SERVER, self.params["host"], tuple(self.params["addresses"]))
        path = self.files.server("server.crt")
        certificate = self.issue(request, path, self.files.server("server.key"), self.params["host"])
        if not (self.check_mode and path in self.plan.writes):
            self.plan.fingerprint = pki.fingerprint(certificate)

    def give_server(self) -> bytes:
        """Plan the certificate that was given; return the authorities that clients need."""
        texts = {}
        for name in ("certificate", "key", "authority"):
            path = self.params[name]
            texts[name] = read(path) if path else None
            if texts[name] is None:
                raise pki.PkiError(
                    f"tls_{name}: {path or 'nothing'} cannot be read: give all of certificate, key, authority"
                )
        certificate, *between = pki.certificates_of(texts["certificate"], self.params["certificate"])
        pair = pki.Pair(certificate, pki.key_of(texts["key"], self.params["key"]))
        authorities = pki.certificates_of(texts["authority"], self.params["authority"])
        request = pki.Request(pki.SERVER, self.params["host"], tuple(self.params["addresses"]))
        problems = pki.check_given(pair, request, self.plan.now, between, authorities)
        if problems:
            raise pki.PkiError("; ".join(problems))
        path = self.files.server("server.crt")
        self.put(path, texts["certificate"])
        self.put(self.files.server("server.key"), texts["key"])
        if path in self.plan.writes:
            self.note(self.params["host"], None, pair.certificate, "it is the one that was given")
        self.plan.fingerprint = pki.fingerprint(pair.certificate)
        self.remember(self.params["host"], self.params["certificate"], pair.certificate)
        return texts["authority"]

    def issue_client(self, person: str) -> None:
        """Plan a person's certificate."""
        paths = self.files.client(person, ".crt"), self.files.client(person, ".key")
        certificate = self.issue(pki.Request(pki.CLIENT, person), *paths, person)
        self.plan.people[person] = pki.names(pki.certificate_text(certificate), paths[0])

    def note(self, called: str, before, after, reason: str) -> None:
        """Keep for the diff what becomes of a certificate."""
        if before is not None:
            self.plan.before.append(f"{called}: {self.described(before)}")
        self.plan.after.append(f"{called}: {self.described(after)}, because {reason}")

    def described(self, certificate) -> str:
        """Return what a person wants to know of a certificate."""
        names = pki.alternative_names(certificate)
        about = f" for {', '.join(names)}" if names else ""
        return f"a certificate{about} until {certificate.not_valid_after_utc:%Y-%m-%d}"

    def remember(self, called: str, path: str, certificate) -> None:
        """Keep when a certificate expires."""
        self.plan.expiry.append(pki.expiry(certificate, called, path, self.plan.now))


def write(path: str, text: bytes) -> None:
    """Replace a file in one step; only its owner can read it."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")  # mode 0600
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def apply(plan: Plan) -> None:
    """Do what the plan says."""
    for path, text in plan.writes.items():
        write(path, text)
    for path in plan.closes:
        os.chmod(path, 0o600)
    for path in plan.removes:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


@contextlib.contextmanager
def alone(directory: str, check_mode: bool):
    """Keep other runs that share the authority waiting."""
    if check_mode:
        yield
        return
    os.makedirs(directory, mode=0o700, exist_ok=True)
    with open(os.path.join(directory, ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Read, plan, apply unless in check mode, report."""
    path = {"type": "path"}
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "read"], "default": "present"},
            "directory": {"type": "path", "required": True},
            "host": {"type": "str", "required": True},
            "addresses": {"type": "list", "elements": "str", "required": True},
            "clients": {"type": "list", "elements": "str", "default": []},
            "clients_directory": path,
            "certificate": path,
            "key": {**path, "no_log": False},
            "authority": path,
            "passphrase": {"type": "str", "no_log": True},
            "authority_name": {"type": "str", "default": "PEAT Server CA"},
            "days": {"type": "int", "default": 397},
            "renew_days": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    if pki is None:
        module.fail_json(msg=missing_required_lib("cryptography"), exception=str(MISSING))
    params = module.params
    if params["clients"] and not params["clients_directory"]:
        module.fail_json(msg="clients need a clients_directory")
    only_look = module.check_mode or params["state"] != "present"
    try:
        with alone(params["directory"], only_look):
            planner = Planner(params, only_look, datetime.datetime.now(datetime.timezone.utc))
            plan = planner.run() if params["state"] == "present" else planner.look()
            if not only_look:
                apply(plan)
    except pki.PkiError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename} cannot be kept ({error.strerror}): let tls_authority_dir and peat_sheets_dir name"
            " directories that the user who runs Ansible may write"
        )

    if params["certificate"] and params["state"] == "present":
        for text in pki.expiring(plan.expiry):
            module.warn(f"{text}: it was given and is not renewed here, give another as tls_certificate")

    def source(name: str) -> str:
        path = planner.files.server(name)
        return NOTHING if module.check_mode and path in plan.writes else path

    module.exit_json(
        changed=plan.changed,
        files=[{"name": name, "src": source(name)} for name in ("ca.crt", "server.crt", "server.key")],
        fingerprint=plan.fingerprint,
        people=plan.people,
        expiry=plan.expiry,
        missing=plan.missing,
        expiring=pki.expiring(plan.expiry),
        diff={"before": "".join(f"{x}\n" for x in plan.before), "after": "".join(f"{x}\n" for x in plan.after)},
    )


if __name__ == "__main__":
    main()
