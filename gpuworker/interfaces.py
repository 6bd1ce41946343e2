"""The kernel's list of this node's interfaces and their addresses, as values.

Over a netlink socket, which needs no rights and no library: the standard library names interfaces only, and a node of
a cluster has several addresses that differ in who can reach them.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_REQUEST_DUMP = 0x301
_GET_ADDRESSES, _NEW_ADDRESS = 22, 20
_ERROR, _DONE = 2, 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
# Temporary, failed, deprecated, tentative: not to be told to others.
_NOT_FOR_LONG = 0x01 | 0x08 | 0x20 | 0x40
_HEADER = struct.Struct("=IHHII")
_ADDRESS = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    addresses: tuple[Address, ...] = ()


def read() -> list[Interface]:
    """Return every interface in the kernel's order, those without an address too. Raises OSError."""
    names = dict(socket.if_nameindex())
    found: dict[int, list[Address]] = {index: [] for index in names}
    for index, address in _dump():
        found.setdefault(index, []).append(address)
    return [Interface(names.get(index, f"interface {index}"), tuple(mine)) for index, mine in found.items()]


def words(table: Sequence[Interface]) -> str:
    """Return what a node has, for people: "lo: 127.0.0.1, ::1; eth0: 10.0.0.7; ib0: no address"."""
    return (
        "; ".join(f"{one.name}: {', '.join(map(str, one.addresses)) or 'no address'}" for one in table)
        or "no interface"
    )


def _dump() -> Iterator[tuple[int, Address]]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as link:
        link.settimeout(_LIMIT_S)
        link.bind((0, 0))
        size = _HEADER.size + _ADDRESS.size
        link.send(
            _HEADER.pack(size, _GET_ADDRESSES, _REQUEST_DUMP, 1, 0)
            + _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        )
        while True:
            data = link.recv(1 << 18)
            while len(data) >= _HEADER.size:
                length, kind, *_ = _HEADER.unpack_from(data)
                if kind == _DONE:
                    return
                if kind == _ERROR or length < _HEADER.size:
                    raise OSError("the kernel does not list this node's addresses")
                if kind == _NEW_ADDRESS:
                    yield from _one(data[_HEADER.size : length])
                data = data[_aligned(length) :]


def _one(message: bytes) -> Iterator[tuple[int, Address]]:
    """Yield the address of one message; nothing for one that will not stay, or of another family."""
    family, _, flags, _, index = _ADDRESS.unpack_from(message)
    attributes = dict(_attributes(message[_ADDRESS.size :]))
    if _IFA_FLAGS in attributes:
        flags = int.from_bytes(attributes[_IFA_FLAGS], "little" if struct.pack("=H", 1)[0] else "big")
    # On a point-to-point interface the address is the other end's, the local one is ours.
    raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    if raw is None or family not in (socket.AF_INET, socket.AF_INET6):
        return
    # The flag of a temporary IPv6 address says "secondary" of an IPv4 one, which stays.
    if family == socket.AF_INET6 and flags & _NOT_FOR_LONG:
        return
    yield index, ipaddress.ip_address(raw)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
