import pytest
from peat import encryption


@pytest.mark.parametrize(
    ("server", "check"),
    [("192.0.2.1", "checkIP"), ("2001:db8::1", "checkIP"), ("peat.example.org", "checkHost")],
)
def test_a_forwarder_believes_the_labs_server_only(server, check):
    lines = encryption.forwarder(server, 8081).splitlines()
    assert {"verifyChain = yes", f"{check} = {server}", "CAfile = ca.crt", f"connect = {server}:8081"} <= set(lines)
    # Whoever else is on the person's network does not get through it.
    assert "accept = 127.0.0.1:8081" in lines


def test_windows_knows_no_processes_in_the_foreground():
    both = {system: encryption.forwarder("192.0.2.1", 8081, system) for system in ("unix", "windows")}
    assert both["unix"] == "foreground = yes\npid =\n\n" + both["windows"]


def test_every_system_has_steps_to_take():
    assert list(encryption.STEPS) == ["Linux", "macOS", "Windows"]
    assert all(words[0].startswith("Install stunnel") for words in encryption.STEPS.values())


def test_both_drivers_verify_the_server():
    assert encryption.driver_arguments("PyMySQL") == {"ssl": {"ca": "ca.crt"}}
    # Without the mode it would believe any server.
    assert encryption.driver_arguments("MySQLdb", "x/ca.crt", "ann.client.crt", "ann.client.key") == {
        "ssl": {"ca": "x/ca.crt", "cert": "ann.client.crt", "key": "ann.client.key"},
        "ssl_mode": "VERIFY_IDENTITY",
    }
