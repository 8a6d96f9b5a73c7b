"""Which requests of web browsers a server on this machine answers.

A browser sends requests for every page that is open in it, and adds headers that no page can forge. A page
that wants to use our answers can come from another site, or give its own name our address (DNS rebinding). So
the server compares two of these headers with what it knows:

    Host      the machine that the browser believes it is talking to, "localhost:8000"
    Origin    the site of the page that sends the request, "http://localhost:8000"

Source: RFC 9110, 7.2; the Fetch Standard; Jackson et al., Protecting Browsers from DNS Rebinding Attacks
(2007).

Next: show/markup.py
"""

import ipaddress
import re
import socket

EVERYWHERE = {"", "0.0.0.0", "::"}          # addresses to listen on that stand for all of the machine's
HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]/@\s]+))(?::\d{1,5})?")
ORIGIN = re.compile(r"https?://[^/?#@\s*]+")


def is_loopback(address: str) -> bool:
    """Whether an IP address, as text, is this machine's own, which no other machine can use."""
    found = parse_address(address)
    return found is not None and found.is_loopback


def parse_address(text: str):
    """An IP address, or None for anything else. IPv4 inside IPv6 is IPv4."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_ours(header: str, listening: str) -> bool:
    """Whether a Host header names this machine, where the server listens on the address `listening`.

    That is localhost, a loopback address, or `listening` itself. If it listens on all addresses, it is also
    the machine's name and any IP address, since only a name can be given an address of ours.

    >>> [is_ours(host, "127.0.0.1") for host in ("localhost:8000", "[::1]", "127.0.0.2:80", "evil.example")]
    [True, True, True, False]
    """
    found = HOST.fullmatch(header.strip().lower())
    if not found:
        return False
    name = (found[1] or found[2]).removesuffix(".")
    if name in ("localhost", listening.lower()):
        return True
    address = parse_address(name)
    if address is None:
        return listening in EVERYWHERE and name == socket.gethostname().lower()
    return address.is_loopback or listening in EVERYWHERE or address == parse_address(listening)


def is_own_page(origin: str, host: str) -> bool:
    """Whether an Origin is that of our own pages, which came from the machine in the Host header."""
    return origin.lower() == f"http://{host.strip().lower()}"
