"""phpMyAdmin, in a real browser: an administrator's work with it, and everything that others must not get from it.

The browser comes from the hosts modern, whose addresses are the administrators' network here, and stranger: it
connects through their sshd. What it showed is kept in .cache/screenshots/.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ipaddress
import json
import pathlib
import shlex
import socket
import subprocess
from collections.abc import Iterator

import onhost
import pytest
import secrecy
from conftest import CLIENTS, REPOSITORY, Run, put, wait_until
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import BrowserContext, Error, Page, expect, sync_playwright
from verified import verify

PORT = 443
GIVEN = "a password that is given"
UNITS = ("peat-phpmyadmin.service", "peat-phpmyadmin-php.service")
#: What an administrator adds by hand, and the accounts that phpMyAdmin refuses whatever the server says.
ADDED = "newcomer"
REFUSED = ("handmade", "root")
# In milliseconds: a server with much to do takes longer than five seconds.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def wanted(lab) -> dict:
    desk = lab.hosts["modern"]
    return {
        "peat_phpmyadmin": True,
        "peat_administrators": [{"name": "keeper"}, {"name": "second.keeper", "password": GIVEN}],
        "peat_admin_networks": [desk["address"], desk["address6"]],
    }


#: What check mode cannot say of a host without the packages: that they come, and what starts with them.
UNFORESEEN = [
    ("server", f"phpmyadmin : {task}") for task in ("Install | phpMyAdmin, nginx and PHP", "Service | PHP, then nginx")
]


@pytest.fixture(scope="module", autouse=True)
def served(site, wanted):
    """The server with phpMyAdmin; what was predicted happened, and a second run finds nothing to do."""
    predicted = site(wanted, check=True)
    assert predicted.ok, predicted.failure
    run = site(wanted)
    assert run.ok, run.failure
    expected, happened = ([task for task in each.changed if task not in UNFORESEEN] for each in (predicted, run))
    assert expected == happened
    again = site(wanted)
    assert again.ok, again.failure
    assert again.changed == []


@contextlib.contextmanager
def through(values: dict) -> Iterator[str]:
    """A SOCKS proxy whose connections come from a host's addresses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = str(pathlib.Path(values["key"]).expanduser())
    options = [*values["ssh_args"].split(), "-o", "ControlPath=none", "-o", "ExitOnForwardFailure=yes", "-i", key]
    command = ["ssh", "-N", "-D", f"127.0.0.1:{port}", *options, f"{values['user']}@{values['address']}"]
    with subprocess.Popen(command) as ssh:
        try:
            wait_until(lambda: listens(port), f"the way through {values['address']}")
            yield f"socks5://127.0.0.1:{port}"
        finally:
            ssh.terminate()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def desks(served, server, lab):
    """desks(host) -> a new browser context that comes from the host, and knows the server by its certificate."""
    text = server.check_output("cat /etc/peat-phpmyadmin-tls/server.crt").encode()
    key = x509.load_pem_x509_certificate(text).public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(der).digest()).decode()
    options = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [f"--ignore-certificate-errors-spki-list={pin}"]
    with contextlib.ExitStack() as stack:
        playwright = stack.enter_context(sync_playwright())
        ways = {name: stack.enter_context(through(lab.hosts[name])) for name in ("modern", "stranger")}
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=options)
        stack.callback(browser.close)

        def desk(host: str) -> BrowserContext:
            return browser.new_context(proxy={"server": ways[host]}, viewport={"width": 1280, "height": 900})

        yield desk


@pytest.fixture(scope="module")
def picture(desks):
    """picture(page, name, ...) keeps what a browser shows; options of Playwright's screenshot."""
    folder = REPOSITORY / ".cache/screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    context = desks("modern")
    nothing = context.new_page().screenshot()
    context.close()

    def take(page: Page, name: str, **options) -> None:
        shown = page.screenshot(path=folder / f"phpmyadmin-{name}.png", **options)
        # A page with nothing on it takes a fraction of one with text.
        assert len(shown) > 2 * len(nothing), (len(shown), len(nothing))

    return take


def address_of(lab, family: str = "address") -> str:
    address = lab.server[family]
    host = f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    return f"https://{host}/phpmyadmin/"


def log_in(page: Page, url: str, user: str, password: str) -> Page:
    page.goto(url)
    page.fill("#input_username", user)
    page.fill("#input_password", password)
    page.click("#input_go")
    page.wait_for_load_state()
    return page


@pytest.fixture(scope="module")
def keeper(desks, lab) -> Page:
    """The administrator keeper, logged in at the host modern."""
    page = log_in(desks("modern").new_page(), address_of(lab), "keeper", lab.password("keeper"))
    expect(page.locator("#server-breadcrumb")).to_contain_text("127.0.0.1")
    return page


# The administrator's work


def test_an_administrator_sees_a_projects_tables(keeper, lab, picture, sql):
    keeper.goto(f"{address_of(lab)}index.php?route=/database/structure&db=hewlsample")
    picture(keeper, "tables")
    shown = keeper.locator("#tablesForm tbody th a").all_inner_texts()
    there = {
        name for (name,) in sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'hewlsample'")
    }
    assert there and there <= set(shown)


def test_an_administrator_adds_a_user_who_reads_a_project(keeper, lab, picture, sql, run_client):
    modern = lab.hosts["modern"]["address"]
    keeper.goto(f"{address_of(lab)}index.php?route=/server/privileges&adduser=1")
    keeper.fill("input[name=username]", ADDED)
    keeper.select_option("select[name=pred_hostname]", "userdefined")
    keeper.fill("input[name=hostname]", modern)
    keeper.fill("#text_pma_pw", GIVEN)
    keeper.fill("#text_pma_pw2", GIVEN)
    keeper.click("#adduser_submit")
    expect(keeper.locator("body")).to_contain_text("You have added a new user.")
    picture(keeper, "added", full_page=True)
    query = f"username={ADDED}&hostname={modern}&dbname=modernhp"
    keeper.goto(f"{address_of(lab)}index.php?route=/server/privileges&{query}")
    keeper.check("#checkbox_Select_priv")
    keeper.locator("#fieldset_user_privtable_footer input[type=submit]").first.click()
    expect(keeper.locator("body")).to_contain_text("You have updated the privileges")
    picture(keeper, "granted")
    assert sql(f"SELECT Host, Db FROM mysql.db WHERE User = '{ADDED}'") == [[modern, "modernhp"]]
    # A project that nobody has written to cannot be opened by a reader.
    assert run_client("modern", "relstorage4", "add", "farrell", "modernhp", prefix="console", records=1)["ok"]
    assert run_client("modern", "relstorage4", "open", ADDED, "modernhp", password=GIVEN)["ok"]


def test_a_password_may_be_given_and_ipv6_works_as_well(desks, lab):
    context = desks("modern")
    page = log_in(context.new_page(), address_of(lab, "address6"), "second.keeper", GIVEN)
    expect(page.locator("#server-breadcrumb")).to_contain_text("127.0.0.1")
    context.close()


def test_cookies_stay_with_the_browser_and_with_tls(keeper):
    cookies = keeper.context.cookies()
    assert any(cookie["name"].startswith("pmaAuth") for cookie in cookies)
    assert [
        cookie["name"]
        for cookie in cookies
        if not (cookie["secure"] and cookie["httpOnly"] and cookie["sameSite"] == "Strict")
    ] == []


# What others get


@pytest.fixture(scope="module")
def with_right_passwords(sql):
    """Accounts that the database server would let in."""
    for name in REFUSED:
        sql(f"CREATE USER '{name}'@'127.0.0.1' IDENTIFIED BY '{GIVEN}'")
    yield
    for name in REFUSED:
        sql(f"DROP USER '{name}'@'127.0.0.1'")


@pytest.mark.parametrize("user", [*REFUSED, "farrell"])
def test_nobody_but_administrators_logs_in(desks, lab, with_right_passwords, user):
    context = desks("modern")
    password = lab.password(user) if user not in REFUSED else GIVEN
    page = log_in(context.new_page(), address_of(lab), user, password)
    expect(page.locator("body")).to_contain_text("Access denied")
    expect(page.locator("#input_username")).to_be_visible()
    assert page.locator("#server-breadcrumb").count() == 0
    context.close()


@pytest.mark.parametrize("family", ["address", "address6"])
def test_a_browser_elsewhere_gets_nothing(desks, lab, stranger, family, picture):
    page = desks("stranger").new_page()
    with pytest.raises(Error, match="ERR_SOCKS_CONNECTION_FAILED"):
        page.goto(address_of(lab, family))
    # The browser says so on a page of its own, which comes a moment later.
    expect(page.locator("body")).to_contain_text("be reached")
    picture(page, f"refused-{family}")
    page.context.close()
    # The way there is open: it is the port that is refused.
    assert reach(stranger, lab.server[family], 22) == "open"
    assert reach(stranger, lab.server[family], PORT) == "ConnectionRefusedError"


def reach(host, address: str, port: int) -> str:
    program = f"import socket; socket.create_connection(({address!r}, {port}), 10); print('open')"
    done = host.run("python3 -c %s", program)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1].partition(":")[0]


@pytest.fixture(scope="module")
def ask(lab, served, hosts):
    """ask(path, host, family) -> status and headers of an answer whose certificate the lab's authority vouches for."""
    authority = pathlib.Path(lab.server["sheets"], "ca.crt").read_text()

    def get(path: str, host: str = "modern", family: str = "address") -> tuple[int, dict[str, str]]:
        program = (
            "import http.client, json, ssl\n"
            f"context = ssl.create_default_context(cadata={authority!r})\n"
            f"connection = http.client.HTTPSConnection({lab.server[family]!r}, {PORT}, context=context, timeout=30)\n"
            f"connection.request('GET', {path!r})\n"
            "answer = connection.getresponse()\n"
            "print(json.dumps([answer.status, {name.lower(): value for name, value in answer.getheaders()}]))\n"
        )
        return tuple(json.loads(hosts[host].check_output("python3 -c %s", program)))

    return get


@pytest.mark.parametrize("family", ["address", "address6"])
def test_the_labs_authority_vouches_for_it(ask, family):
    status, headers = ask("/phpmyadmin/", family=family)
    assert status == 200
    assert headers["server"] == "nginx" and "x-powered-by" not in headers
    assert headers["strict-transport-security"].startswith("max-age=")
    assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/phpmyadmin/setup/",
        "/phpmyadmin/setup/index.php",
        "/phpmyadmin/libraries/config.default.php",
        "/phpmyadmin/templates/",
        "/phpmyadmin/sql/create_tables.sql",
        "/phpmyadmin/config.sample.inc.php",
        "/phpmyadmin/js/",
        "/doc/",
    ],
)
def test_nothing_but_what_a_browser_needs_is_served(ask, path):
    assert ask(path)[0] == 404


def test_without_the_firewall_it_still_knows_the_administrators_addresses(ask):
    # The server itself is not among them, and no firewall is between it and itself.
    assert ask("/phpmyadmin/", host="server")[0] == 403
    assert ask("/phpmyadmin/js/vendor/jquery/jquery.min.js", host="server")[0] == 403


@pytest.mark.parametrize("family", ["address", "address6"])
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1", "TLSv1_2", "TLSv1_3"])
def test_only_tls_1_2_and_newer(modern, lab, version, family):
    program = "/usr/local/lib/peat-tests/tls_probe.py"
    put(modern, (CLIENTS / "tls_probe.py").read_bytes(), program)

    def answer(*words: str) -> dict:
        return json.loads(modern.check_output(shlex.join(["python3", program, *words, f"--version={version}"])))

    # What is refused is refused by the server: the client can do it, with a server that does.
    assert answer("self")["ok"]
    accepted = version in ("TLSv1_2", "TLSv1_3")
    assert answer(lab.server[family], str(PORT), "--at-once=true")["ok"] is accepted


# The host


def test_nothing_else_listens_and_apache_is_not_there(server, modern, lab):
    listening = server.check_output("ss -Hltnp")
    assert {line.split()[3].rpartition(":")[2] for line in listening.splitlines()} == {
        "22",
        str(PORT),
        str(lab.server["port"]),
    }
    assert "apache" not in listening and not server.exists("apache2")
    assert reach(modern, lab.server["address"], 80) == "ConnectionRefusedError"
    running = server.check_output("systemctl list-units --type=service --state=running --no-legend")
    assert "nginx.service" not in running and "-fpm.service" not in running


def test_the_check_of_a_live_lab_knows_its_port(wanted, lab):
    found = verify(wanted)
    for address in ("address", "address6"):
        inside, outside = (f"{name}, {lab.hosts[name][address]}" for name in ("modern", "stranger"))
        for row in (
            found.row("listening"),
            found.row(f"TLS {PORT}", inside),
            found.row("reach", inside),
            found.row("reach", outside),
        ):
            assert row["ok"], row
        assert f"port {PORT} refuses: no administrator is there" in found.row("reach", outside)["found"]


def test_php_and_nginx_are_confined_and_have_users_of_their_own(server):
    users = {server.check_output("systemctl show --value --property=User %s", unit) for unit in UNITS}
    assert len(users) == 2 and not users & {"", "root", "www-data"}
    for unit in UNITS:
        line = server.check_output("systemd-analyze security %s", unit).splitlines()[-1]
        assert float(line.split(":")[1].split()[0]) < 2, line
    key = "/etc/peat-phpmyadmin-tls/server.key"
    secret = "/etc/peat-phpmyadmin/secret"
    for path, user in ((key, "phpmyadmin-php"), (secret, "phpmyadmin-web"), (key, "nobody"), (secret, "nobody")):
        assert server.run(f"runuser -u {user} -- cat {path}").rc != 0
    assert server.check_output(f"stat -c '%U %G %a' {secret}") == "root phpmyadmin-php 640"
    assert len(server.check_output(f"cat {secret}")) == 32


def test_phpmyadmin_keeps_nothing_in_the_database_server(sql, lab):
    assert sql("SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE '%phpmyadmin%'") == []
    assert sql("SELECT User FROM mysql.user WHERE User LIKE '%php%' OR User LIKE 'pma%'") == []
    assert sorted(sql("SELECT User, Host FROM mysql.user WHERE User LIKE '%keeper'")) == [
        ["keeper", "127.0.0.1"],
        ["second.keeper", "127.0.0.1"],
    ]


def test_php_comes_back_by_itself(server, ask):
    """As after its daily restart, without nginx."""
    server.check_output("systemctl restart %s", UNITS[1])
    assert ask("/phpmyadmin/")[0] == 200


def test_no_secret_is_left_anywhere_else(keeper, lab, server):
    """Administrators' passwords, of which one was entered, and the secret of the cookies; see test_secrets.py."""
    secrets = {GIVEN, *secrecy.known(lab, server)}
    assert {server.check_output("cat %s", secrecy.COOKIES), lab.password("keeper")} <= secrets
    assert secrecy.places(onhost.ssh(lab.server), secrets, secrecy.ROOTS) == [secrecy.COOKIES]


def test_a_certificate_that_was_placed_and_not_shown_is(site, wanted, server):
    """A run that ended between the files and nginx is finished by the next."""
    folder = "/etc/peat-phpmyadmin-tls"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=old -keyout server.key -out server.crt"
    kept = f"cp -a {folder} /run/tls-before && cd {folder} && {command}"
    server.check_output(f"{kept} && chgrp phpmyadmin-web server.* && chmod 640 server.*")
    server.check_output(f"systemctl restart {UNITS[0]}")
    shown = f"openssl s_client -connect 127.0.0.1:{PORT} </dev/null 2>/dev/null | openssl x509 -noout -subject"
    assert "old" in server.check_output(shown)
    server.check_output(f"cp -a /run/tls-before/server.* {folder}/ && rm -r /run/tls-before")
    run = site(wanted)
    assert run.ok, run.failure
    assert run.changed == [("server", "phpmyadmin : Service | PHP, then nginx")]
    assert "server" in server.check_output(shown)


def test_a_part_of_the_site_can_be_run_alone(site, wanted):
    """Forwarder and phpMyAdmin, which are not in it, need not be told of the certificate."""
    run = site(wanted, "--tags=firewall", check=True)
    assert run.ok, run.failure
    assert run.changed == []


# What is refused before anything changes, and off again


def test_a_port_in_use_and_an_unguarded_phpmyadmin_are_refused(site, wanted, server):
    enabled = "/etc/apache2/conf-enabled"
    server.check_output(f"mkdir -p {enabled} && ln -s ../conf-available/phpmyadmin.conf {enabled}/phpmyadmin.conf")
    try:
        run = site({**wanted, "phpmyadmin_port": 22})
    finally:
        server.check_output("rm -r /etc/apache2")
    assert not run.ok and run.changed == []
    assert "phpmyadmin_port: another program already listens on port 22" in run.failure and "sshd" in run.failure
    assert "peat_phpmyadmin: Apache serves phpMyAdmin on this host already" in run.failure
    assert "another service" not in run.failure
    run = site({**wanted, "phpmyadmin_port": 8081})
    assert not run.ok and run.changed == []
    assert "phpmyadmin_port: another service of this host has port 8081" in run.failure


@pytest.fixture(scope="module")
def removed(site, served, sql) -> Iterator[Run]:
    """The run that removes it, after an administrator added a user and gave somebody of the list more."""
    (host,) = next(iter(sql("SELECT Host FROM mysql.user WHERE User = 'guest' AND Host LIKE '%.%' LIMIT 1")))
    sql(f"GRANT DELETE ON modernhp.* TO guest@'{host}'")
    run = site()
    assert run.ok, run.failure
    site.to_restore = False
    yield run
    for (address,) in sql(f"SELECT Host FROM mysql.user WHERE User = '{ADDED}'"):
        sql(f"DROP USER '{ADDED}'@'{address}'")


def test_what_an_administrator_does_by_hand_is_in_the_next_plan(removed):
    (accounts,) = removed.output_of("Accounts | Everybody can do what the list says")
    assert [finding for finding in accounts["findings"] if f"'{ADDED}'@" in finding and "SELECT on modernhp" in finding]
    assert [step for step in accounts["steps"] if step.startswith("revoke DELETE on modernhp.* from 'guest'@")]


def test_off_leaves_nothing_but_packages(removed, server, modern, sql, lab):
    assert reach(modern, lab.server["address"], PORT) == "ConnectionRefusedError"
    assert f"dport {PORT}" not in server.check_output("nft list ruleset")
    assert sql("SELECT User FROM mysql.user WHERE User LIKE '%keeper'") == []
    left = server.check_output(
        "find /etc /run /var/cache /var/lib/systemd -name '*peat-phpmyadmin*' -not -path '*/sys/*'"
    )
    assert left == ""
    assert server.run("getent passwd phpmyadmin-php phpmyadmin-web").stdout == ""
    assert server.run("getent group phpmyadmin-php phpmyadmin-web").stdout == ""
    # What the packages would start stays off at the next boot as well.
    enabled = server.check_output("systemctl list-unit-files --state=enabled --no-legend")
    assert "nginx" not in enabled and "-fpm" not in enabled
