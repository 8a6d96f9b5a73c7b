"""scene/browsers.py: which hosts and origins are ours."""

import socket

import pytest

from scene import browsers

ALWAYS = ["localhost", "LocalHost:80", "localhost.", "127.0.0.1", "127.0.0.1:80", "127.9.0.7",
          "[::1]:8000", "[::ffff:127.0.0.1]"]
NEVER = ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example",
         "localhostx", "", " ", "a b", "user@localhost", "http://localhost", "localhost:99:1", "[::1",
         "::1]", "[evil]"]


@pytest.mark.parametrize("listening", ["127.0.0.1", "localhost", "::1", "", "0.0.0.0", "::", "192.168.1.5"])
def test_hosts_that_are_always_ours_and_those_that_never_are(listening):
    assert [host for host in ALWAYS if not browsers.is_ours(host, listening)] == []
    assert [host for host in NEVER if browsers.is_ours(host, listening)] == []


@pytest.mark.parametrize("host, listening, ours", [
    ("192.168.1.5:8000", "192.168.1.5", True), ("192.168.1.6", "192.168.1.5", False),
    ("192.168.1.5", "127.0.0.1", False), ("192.168.1.5", "0.0.0.0", True), ("192.168.1.5", "", True),
    ("[fd00::7]", "::", True), ("[fd00::7]:8000", "fd00::7", True), ("[fd00::8]", "fd00::7", False),
    ("[FD00:0::7]", "fd00::7", True), ("box.lan", "box.lan", True), ("BOX.lan:80", "Box.lan", True),
    ("other.lan", "box.lan", False), (socket.gethostname(), "0.0.0.0", True),
    (socket.gethostname(), "127.0.0.1", False)])
def test_the_address_that_the_server_listens_on(host, listening, ours):
    assert browsers.is_ours(host, listening) == ours


@pytest.mark.parametrize("address, loopback", [
    ("127.0.0.1", True), ("127.3.2.1", True), ("::1", True), ("::ffff:127.0.0.1", True),
    ("fe80::1%eth0", False), ("192.168.1.5", False), ("0.0.0.0", False), ("::", False),
    ("localhost", False), ("", False)])
def test_loopback_addresses(address, loopback):
    assert browsers.is_loopback(address) == loopback


def test_our_own_pages():
    assert browsers.is_own_page("http://localhost:8000", "localhost:8000")
    assert browsers.is_own_page("http://LOCALHOST", "localhost")
    for origin in "", "null", "https://localhost:8000", "http://localhost", "http://localhost:8000.evil":
        assert not browsers.is_own_page(origin, "localhost:8000")
