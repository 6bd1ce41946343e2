"""Which of a node's addresses the ingress serves on and tells to the portal, and the words when there is none."""

from __future__ import annotations

import ipaddress

import pytest

from gpuworker import addresses, interfaces
from gpuworker.addresses import NoAddress
from gpuworker.interfaces import Address, Interface


def _ip(*texts: str) -> tuple[Address, ...]:
    return tuple(ipaddress.ip_address(text) for text in texts)


# A node as they are: management, storage, a fast network with IPv6 listed first, one that is down.
NODE = [
    Interface("lo", _ip("127.0.0.1", "::1")),
    Interface("eth0", _ip("10.0.0.7", "fe80::7")),
    Interface("ib0", _ip("fd00:1b::7", "fe80::1b7", "10.1.3.7", "10.1.3.70")),
    Interface("ib1"),
]
FROM_ETH0 = _ip("10.0.0.7")


def _chosen(door: str, routes: tuple[Address, ...] = FROM_ETH0) -> list[str]:
    return [str(one) for one in addresses.choose(door, NODE, routes)]


@pytest.mark.parametrize(
    ("door", "chosen"),
    [
        ("", ["10.0.0.7"]),
        ("10.1.3.7", ["10.1.3.7"]),
        ("fd00:1b::7", ["fd00:1b::7"]),
        ("FD00:1B:0::7", ["fd00:1b::7"]),
        ("eth0", ["10.0.0.7"]),
        ("ib0", ["10.1.3.7", "10.1.3.70", "fd00:1b::7"]),
        ("10.1.0.0/16", ["10.1.3.7", "10.1.3.70"]),
        ("10.1.3.9/16", ["10.1.3.7", "10.1.3.70"]),
        ("fd00::/8", ["fd00:1b::7"]),
        ("0.0.0.0/0", ["10.0.0.7", "10.1.3.7", "10.1.3.70"]),
        ("::/0", ["fd00:1b::7"]),
    ],
)
def test_one_word_is_right_on_every_node(door: str, chosen: list[str]) -> None:
    assert _chosen(door) == chosen


def test_a_portal_with_several_addresses_is_reached_from_several() -> None:
    assert _chosen("", _ip("fd00:1b::7", "10.0.0.7", "10.0.0.7")) == ["fd00:1b::7", "10.0.0.7"]


@pytest.mark.parametrize(
    ("door", "words"),
    [
        ("10.9.9.9", "no address 10.9.9.9"),
        ("ib7", "no interface ib7"),
        ("ib1", "interface ib1: this node has no address there"),
        ("192.168.0.0/16", "network 192.168.0.0/16: this node has no address there"),
        ("127.0.0.1", "127.0.0.1 is a loopback address, and the portal is on another host"),
        ("lo", "::1 is a loopback address"),
        ("fe80::7", "fe80::7 is link-local"),
        ("fe80::/10", "fe80::1b7 is link-local"),
        ("10.0.0.0/99", "no network"),
        ("0.0.0.0", "no address 0.0.0.0"),
        ("::", "no address ::"),
        ("node07.example.org", "no interface node07.example.org"),
    ],
)
def test_what_cannot_be_told_to_the_portal_is_refused_in_words(door: str, words: str) -> None:
    with pytest.raises(NoAddress) as error:
        _chosen(door)
    assert words in str(error.value)
    assert "name an interface" in str(error.value)


@pytest.mark.parametrize("door", ["10.9.9.9", "ib7", "ib1", "192.168.0.0/16", "127.0.0.1"])
def test_a_refusal_lists_what_the_node_has(door: str) -> None:
    with pytest.raises(NoAddress) as error:
        _chosen(door)
    assert "eth0: 10.0.0.7, fe80::7; ib0: fd00:1b::7, fe80::1b7, 10.1.3.7, 10.1.3.70; ib1: no address" in str(
        error.value
    )


def test_loopback_counts_where_the_portal_was_reached_by_it() -> None:
    own = _ip("127.0.0.1")
    assert _chosen("", own) == ["127.0.0.1"]
    assert _chosen("127.0.0.1", own) == ["127.0.0.1"]
    assert _chosen("lo", _ip("::1")) == ["127.0.0.1", "::1"]
    assert _chosen("eth0", own) == ["10.0.0.7"]


def test_a_portal_that_is_reached_by_a_link_local_address_gives_none() -> None:
    with pytest.raises(NoAddress, match="fe80::7%eth0 is link-local"):
        _chosen("", _ip("fe80::7%eth0"))


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert addresses.url(ipaddress.ip_address("fd00::7"), 4) == "http://[fd00::7]:4"
    assert addresses.url(ipaddress.ip_address("10.0.0.7"), 4) == "http://10.0.0.7:4"


def test_an_ipv4_address_in_ipv6_form_is_one() -> None:
    assert str(addresses.plain("::ffff:10.0.0.7")) == "10.0.0.7"


def test_the_kernel_lists_loopback() -> None:
    found = {one.name: one.addresses for one in interfaces.read()}
    assert ipaddress.ip_address("127.0.0.1") in found["lo"]
    assert "lo: 127.0.0.1" in interfaces.words(interfaces.read())
