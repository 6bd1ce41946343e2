"""A webhook's URL → the one address that is dialled, or why it is not: nobody may make the portal ask its neighbours.

The name is looked up once and that answer is dialled, so a name that changes its mind between the two gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit


class Refused(ValueError):
    """The refusal to call a URL. Its text says why."""


def checked(url: str, private: bool) -> None:
    """Check what can be said of a URL without looking anything up. Raise Refused."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("This is not a URL.") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
        raise Refused("Write a whole URL, such as https://hooks.example.org/berth.")
    if parts.username or parts.password or parts.fragment:
        raise Refused("The URL must not have a user name, a password or a fragment.")
    if parts.scheme == "http" and not private:
        raise Refused("The address must begin with https://.")
    if any(ord(char) <= 32 or ord(char) > 126 for char in url):
        raise Refused("A URL has only ASCII characters and no spaces.")


def resolved(url: str, private: bool) -> tuple[str, int]:
    """Return the address and port to dial. Raise Refused or OSError."""
    checked(url, private)
    parts = urlsplit(url)
    assert parts.hostname is not None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        entries = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # of its codec for names of hosts, e.g. a part of more than 63 characters
        raise Refused("This is not a valid host name.") from None
    found = [str(entry[4][0]) for entry in entries]
    for address in found:
        if not private and not _is_public(address):
            raise Refused("The host has an address of a private network.")
    return found[0], port


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    inside = getattr(parsed, "ipv4_mapped", None) or getattr(parsed, "sixtofour", None)
    return parsed.is_global and not parsed.is_multicast and (inside is None or inside.is_global)
