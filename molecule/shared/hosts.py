#!/usr/bin/env python3
"""Throwaway hosts: podman containers that boot systemd, with sshd and addresses of their own.

The demo and every molecule scenario use this one program. It reads what it needs from an Ansible
inventory; a host is a test host if it has `testhost_image`:

    testhost_image     an image of images.yml, built when first needed and kept
    ansible_host       the IPv4 address; its /24 becomes a podman network
    testhost_address6  the IPv6 address; its /64 belongs to the same network

usage: hosts.py up|down -i INVENTORY [-i INVENTORY ...]
       hosts.py restart -i INVENTORY [-i INVENTORY ...] HOST
       hosts.py images [IMAGE ...]
       hosts.py clean
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import hashlib
import ipaddress
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import yaml

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "peat-server"
SSH_KEY = CACHE / "id_ed25519"
LABEL = "peat-server.testhost"
MACHINE_CAS = pathlib.Path("/usr/local/share/ca-certificates")


def run(*argv: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(argv, check=True, text=True, **kwargs)


def output(*argv: str) -> str:
    return run(*argv, stdout=subprocess.PIPE).stdout.strip()


def say(text: str) -> None:
    print(f"hosts: {text}", flush=True)


@contextlib.contextmanager
def one_at_a_time():
    """Two runs that need the same missing thing make it once; the second waits."""
    CACHE.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# Images


def debian_mirrors() -> dict[str, str]:
    """URLs of the main and the security archive this machine itself is configured to use."""
    own = output("sh", "-c", ". /etc/os-release; echo $VERSION_CODENAME")
    lines = output("apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages")
    found = dict(line.split(maxsplit=1) for line in reversed(lines.splitlines()))
    if own not in found:
        sys.exit(f"hosts: apt has no archive for this machine's own release {own!r}; run `apt-get update`")
    return {"main": found[own], "security": found.get(f"{own}-security", found[own])}


def sources_list(suite: str) -> str:
    mirrors = debian_mirrors()
    lines = [f"deb {mirrors['main']} {suite} main"]
    if suite != "sid":
        lines.append(f"deb {mirrors['main']} {suite}-updates main")
        lines.append(f"deb {mirrors['security']} {suite}-security main")
    return "\n".join(lines) + "\n"


def recipes() -> dict:
    return yaml.safe_load((HERE / "images.yml").read_text())


def boots_systemd(image: str) -> bool:
    return recipes()["images"][image].get("base") != "sysvinit"


def build_image(name: str) -> str:
    """Build image `name` unless one of the same recipe exists; return its reference."""
    known = recipes()
    if name not in known["images"]:
        sys.exit(f"hosts: no image {name!r} in images.yml; known: {', '.join(sorted(known['images']))}")
    recipe = known["images"][name]
    base = known[recipe.get("base", "base")]
    spec = hashlib.sha256(json.dumps([base, recipe], sort_keys=True).encode()).hexdigest()[:16]
    reference = f"localhost/peat-server/{name}:{spec}"
    with one_at_a_time():
        if subprocess.run(["podman", "image", "exists", reference]).returncode != 0:
            make_image(name, recipe, base, reference)
    return reference


def make_image(name: str, recipe: dict, base: dict, reference: str) -> None:
    say(f"building image {name} ({recipe['suite']}), once")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        hooks = pathlib.Path(folder, "hooks")
        hooks.mkdir()
        in_image = [["update-ca-certificates"]] + base["run"] + recipe.get("run", [])
        script = ["#!/bin/sh", "set -eu", f'mkdir -p "$1{MACHINE_CAS}"']
        # Authorities this machine trusts (a company's proxy, say) must be trusted for pip as well.
        script += [f'cp {ca} "$1{MACHINE_CAS}/"' for ca in sorted(MACHINE_CAS.glob("*.crt"))]
        script += ["export PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DISABLE_PIP_VERSION_CHECK=1"]
        script += ["unset PIP_FIND_LINKS PIP_EXTRA_INDEX_URL"]
        script += ['chroot "$1" ' + " ".join(f"'{word}'" for word in argv) for argv in in_image]
        hook = hooks / "customize.sh"
        hook.write_text("\n".join(script) + "\n")
        hook.chmod(0o755)
        tar = pathlib.Path(folder, "image.tar")
        sources = pathlib.Path(folder, "sources.list")
        sources.write_text(sources_list(recipe["suite"]))
        run(
            "mmdebstrap", "--quiet", "--mode=root", "--variant=apt",
            # The archive of a moving suite may be served from a snapshot whose Release file has expired.
            *(["--aptopt=Acquire::Check-Valid-Until \"false\""] if recipe["suite"] == "sid" else []),
            "--aptopt=Acquire::Languages \"none\"",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            f"--include={','.join(base['packages'] + recipe.get('packages', []))}",
            f"--customize-hook={hook}",
            recipe["suite"], str(tar), str(sources),
        )  # fmt: skip
        run(
            "podman", "import", "--quiet",
            "-c", 'CMD ["/sbin/init"]', "-c", "STOPSIGNAL SIGRTMIN+3", "-c", f"LABEL {LABEL}=image",
            str(tar), reference, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    say(f"built {name} in {time.monotonic() - started:.0f} s")


# Hosts


def read_inventory(inventories: list[str]) -> dict[str, dict]:
    """Test hosts of the inventories: {name: variables}."""
    ansible_inventory = shutil.which(
        "ansible-inventory", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    argv = [ansible_inventory, "--list"]
    for inventory in inventories:
        argv += ["-i", inventory]
    # From anywhere: the repository's configuration keeps passwords beside an inventory from being read as hosts.
    os.environ["ANSIBLE_CONFIG"] = str(HERE.parents[1] / "ansible.cfg")
    hostvars = json.loads(output(*argv))["_meta"]["hostvars"]
    hosts = {name: values for name, values in hostvars.items() if "testhost_image" in values}
    if not hosts:
        sys.exit(f"hosts: no host with testhost_image in {', '.join(inventories)}")
    return hosts


def network_of(values: dict) -> str:
    return "peat-" + values["ansible_host"].rpartition(".")[0].replace(".", "-")


def container_of(name: str, values: dict) -> str:
    return f"{network_of(values)}-{name}"


def ensure_network(values: dict) -> None:
    name = network_of(values)
    with one_at_a_time():
        create_network(name, values)


def create_network(name: str, values: dict) -> None:
    if subprocess.run(["podman", "network", "exists", name]).returncode == 0:
        return
    subnet = ipaddress.ip_interface(values["ansible_host"] + "/24").network
    subnet6 = ipaddress.ip_interface(values["testhost_address6"] + "/64").network
    run("podman", "network", "create", "--disable-dns", "--ipv6", f"--subnet={subnet}", f"--subnet={subnet6}",
        f"--label={LABEL}=network", name, stdout=subprocess.DEVNULL)  # fmt: skip


def ensure_ssh_key() -> str:
    with one_at_a_time():
        if not SSH_KEY.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "peat-server test hosts", "-f", str(SSH_KEY))
    return SSH_KEY.with_suffix(".pub").read_text()


def wait_until_ready(name: str, values: dict, seconds: float = 60) -> None:
    """Wait until the host has booted and its sshd answers; end the program if it does not."""
    container, deadline = container_of(name, values), time.monotonic() + seconds
    state = "unknown"
    ask = ["systemctl", "is-system-running", "--wait"]
    if not boots_systemd(values["testhost_image"]):
        # Of its runlevel no script is still to come.
        ask = ["sh", "-c", "pgrep -x rc || { runlevel | grep -q 2$ && echo running; }"]
    while time.monotonic() < deadline:
        booted = subprocess.run(["podman", "exec", container, *ask], text=True, capture_output=True)
        state = booted.stdout.strip() or booted.stderr.strip()
        if state in ("running", "degraded"):
            try:
                with socket.create_connection((values["ansible_host"], 22), timeout=1) as connection:
                    if connection.recv(4) == b"SSH-":
                        break
            except OSError as error:
                state = f"sshd: {error}"
        time.sleep(0.1)
    else:
        sys.exit(f"hosts: {name} ({container}) is not ready after {seconds:.0f} s: {state}")
    if state == "degraded":
        failed = output("podman", "exec", container, "systemctl", "list-units", "--failed", "--plain", "--no-legend")
        say(f"{name} booted with failed units:\n{failed}")


def start(name: str, values: dict, reference: str, public_key: str) -> bool:
    """Boot a host that is not running; return whether it was not."""
    container = container_of(name, values)
    running = subprocess.run(
        ["podman", "container", "inspect", "--format", "{{.State.Running}}", container], text=True, capture_output=True
    )
    if running.stdout.strip() == "true":
        return False
    if running.returncode == 0:
        run("podman", "start", container, stdout=subprocess.DEVNULL)
    else:
        ensure_network(values)
        # A remade host keeps its MAC address, or this machine would look for the old one for some seconds.
        mac = "02:00:" + ":".join(f"{int(byte):02x}" for byte in values["ansible_host"].split("."))
        # --privileged: systemd, nftables and sysctl of the host's own namespaces, as on a machine.
        run(
            "podman", "run", "--detach", f"--name={container}", f"--hostname={name}",
            f"--systemd={'always' if boots_systemd(values['testhost_image']) else 'false'}",
            "--privileged", "--pids-limit=-1", "--ulimit=nofile=20000:20000", "--ulimit=nproc=4096:4096",
            f"--network={network_of(values)}:ip={values['ansible_host']},ip={values['testhost_address6']},mac={mac}",
            f"--label={LABEL}=host", reference, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    authorize = ("install", "-D", "-m", "600", "/dev/stdin", "/root/.ssh/authorized_keys")
    if subprocess.run(["podman", "exec", "-i", container, *authorize], text=True, input=public_key).returncode:
        log = subprocess.run(["podman", "logs", "--tail=5", container], text=True, capture_output=True)
        sys.exit(
            f"hosts: {name} ({container}) ended while booting: {log.stdout}{log.stderr}\n"
            "With many hosts at once, fs.inotify.max_user_instances (128 by default) may be what is short."
        )
    return True


def up(hosts: dict[str, dict]) -> None:
    public_key = ensure_ssh_key()
    references = {image: build_image(image) for image in sorted({v["testhost_image"] for v in hosts.values()})}
    started = [
        name for name, values in hosts.items() if start(name, values, references[values["testhost_image"]], public_key)
    ]
    for name in started:
        wait_until_ready(name, hosts[name])
        say(f"{name} is up at {hosts[name]['ansible_host']}, {hosts[name]['testhost_address6']}")


def remove(*containers: str) -> None:
    """Remove hosts as if their power was cut."""
    argv = ("podman", "rm", "--force", "--ignore", "--time=0", *containers)
    # Podman fails to kill a container that ends at the same moment (4.3.1). It has ended then, and can be removed.
    if subprocess.run(argv, stdout=subprocess.DEVNULL).returncode:
        run(*argv, stdout=subprocess.DEVNULL)


def down(hosts: dict[str, dict]) -> None:
    remove(*(container_of(name, values) for name, values in hosts.items()))
    for network in {network_of(values) for values in hosts.values()}:
        # Other hosts may still be on it; then it stays.
        subprocess.run(["podman", "network", "rm", network], capture_output=True)
    say(f"removed {', '.join(hosts)}")


def restart(hosts: dict[str, dict], name: str) -> None:
    """Reboot a host: stop it as a machine is shut down, boot it again."""
    container = container_of(name, hosts[name])
    if boots_systemd(hosts[name]["testhost_image"]):
        run("podman", "restart", "--time=60", container, stdout=subprocess.DEVNULL)
    else:
        # sysvinit does not go down by a signal; it is told, and the container ends with it.
        run("podman", "exec", container, "shutdown", "-r", "now", stdout=subprocess.DEVNULL)
        run("podman", "wait", container, stdout=subprocess.DEVNULL)
        run("podman", "start", container, stdout=subprocess.DEVNULL)
    wait_until_ready(name, hosts[name])


def clean() -> None:
    """Remove every host, network and image that this program made."""
    for kind, listing, delete in (
        ("hosts", ("ps", "-aq"), remove),
        ("networks", ("network", "ls", "-q"), functools.partial(run, "podman", "network", "rm")),
        ("images", ("images", "-q"), functools.partial(run, "podman", "rmi", "--force")),
    ):
        found = dict.fromkeys(output("podman", *listing, f"--filter=label={LABEL}").split())
        if found:
            delete(*found)
        say(f"removed {len(found)} {kind}")


def main() -> None:
    if os.environ.get("PEAT_IN_CGROUP2") != "1":
        os.environ["PEAT_IN_CGROUP2"] = "1"
        os.execv(HERE / "in-cgroup2", ["in-cgroup2", sys.executable, *sys.argv])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("up", "down", "restart"):
        sub = commands.add_parser(command)
        sub.add_argument("-i", "--inventory", action="append", required=True)
        if command == "restart":
            sub.add_argument("host")
    commands.add_parser("images").add_argument("image", nargs="*")
    commands.add_parser("clean")
    args = parser.parse_args()
    if args.command == "images":
        for image in args.image or recipes()["images"]:
            build_image(image)
            say(f"image {image} is ready")
    elif args.command == "clean":
        clean()
    elif args.command == "restart":
        restart(read_inventory(args.inventory), args.host)
    else:
        {"up": up, "down": down}[args.command](read_inventory(args.inventory))


if __name__ == "__main__":
    main()
