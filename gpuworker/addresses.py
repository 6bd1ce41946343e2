"""`door_address`, this node's interfaces and the addresses it reaches the portal from → the addresses to serve on. Pure.

One word in a profile has to be right on every node, so it names an interface or a network rather than an address; and
what it leads to here is both bound and told to the portal. Addresses that mean something else elsewhere (loopback,
link-local, wildcard) are refused, because a gateway would reach itself there, or nobody.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from gpuworker.interfaces import Address, Interface, words
from gpuworker.settings import SettingsError

FORMS = (
    "leave door_address empty, or name an interface (ib0), a network (10.1.0.0/16) or an address of this node"
)


class NoAddress(SettingsError):
    """The reason why no address of this node may be told to the portal, and which ones the node has."""


def choose(door: str, table: Sequence[Interface], routes: Sequence[Address]) -> list[Address]:
    """Return the addresses to bind, the best first; `routes` are those from which the portal was reached.

    1. Nothing given: the routes. 2. A network: this node's addresses in it. 3. An address: itself. 4. An interface:
    its addresses, IPv4 first. Raises NoAddress.
    """
    local = any(route.is_loopback for route in routes)
    if not door:
        return _usable("the portal is reached from here", routes, local, table)
    if "/" in door:
        network = _network(door)
        inside = [one for one in _all(table) if one.version == network.version and one in network]
        return _usable(f"the network {network}", inside, local, table)
    if (literal := _literal(door)) is not None:
        if literal not in _all(table):
            raise NoAddress(
                f"this node has no address {literal} (door_address). It has {words(table)}. {_next()}"
            )
        return _usable(f"the address {literal}", [literal], local, table)
    mine = next((one for one in table if one.name == door), None)
    if mine is None:
        raise NoAddress(f"this node has no interface {door} (door_address). It has {words(table)}. {_next()}")
    ordered = sorted(mine.addresses, key=lambda one: one.version)
    return _usable(f"the interface {door}", ordered, local, table)


def url(address: Address, port: int) -> str:
    """Return how a gateway dials it; an IPv6 address stands in brackets."""
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"


def plain(text: str) -> Address:
    """Return an address as a socket names it; an IPv4 one in IPv6's clothes as IPv4."""
    found = ipaddress.ip_address(text)
    return (found.ipv4_mapped or found) if found.version == 6 else found


def _usable(
    where: str, found: Iterable[Address], loopback: bool, table: Sequence[Interface]
) -> list[Address]:
    good, bad = [], []
    for one in dict.fromkeys(found):
        why = _why_not(one, loopback)
        if why:
            bad.append(f"{one} is {why}")
        else:
            good.append(one)
    if good:
        return good
    said = "; ".join(bad) or "this node has no address there"
    raise NoAddress(
        f"no address that gateways could dial, where {where}: {said} (door_address). "
        f"This node has {words(table)}. {_next()}"
    )


def _why_not(one: Address, loopback: bool) -> str:
    if one.is_loopback:
        return "" if loopback else "a loopback address, and the portal is on another host"
    if one.is_unspecified:
        return "the wildcard"
    if one.is_link_local:
        return "link-local"
    if one.is_multicast:
        return "a multicast address"
    return ""


def _all(table: Sequence[Interface]) -> list[Address]:
    return [address for one in table for address in one.addresses]


def _literal(door: str) -> Address | None:
    try:
        return plain(door)
    except ValueError:
        return None


def _network(door: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(door, strict=False)
    except ValueError as error:
        raise NoAddress(f"door_address {door!r} is no network: {error}. {_next()}") from None


def _next() -> str:
    return f"What to do: {FORMS}."
