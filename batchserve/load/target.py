"""Where load goes: an address of this machine, unless somebody says that another one is meant."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from batchserve.errors import ConfigError

__all__ = ["Target", "parse_target"]

CONNECT_S = 2.0
"""How long one of several addresses may take to answer before the next one is tried."""


@dataclass(frozen=True)
class Target:
    """A server's address.

    Attributes:
        host: An IP address.
        port: Its port.
        authority: What the `Host` header says: as it was written.
        prefix: Path before every path of the protocol; "" as a rule.
    """

    host: str
    port: int
    authority: str
    prefix: str = ""

    @property
    def url(self) -> str:
        """The address as people write it."""
        return f"http://{self.authority}{self.prefix}"


def parse_target(url: str, *, may_be_remote: bool = False) -> Target:
    """Read `http://HOST[:PORT][/PREFIX]` and look the host up. Blocks for as long as that takes.

    Args:
        url: The address; the port is 80 without one.
        may_be_remote: True if somebody said that load may leave this machine.

    Raises:
        ConfigError: It is no such address, or not one of this machine and that was not allowed.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or 80
    except ValueError as error:
        raise ConfigError(f"target {url!r}: the port is no number up to 65535") from error
    if parts.scheme != "http" or not parts.hostname or parts.query or parts.username:
        raise ConfigError(f"target {url!r} is no address to load; expected http://HOST:PORT (TLS is not supported)")
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"target {url!r}: {parts.hostname!r} cannot be looked up: {error.strerror}") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not may_be_remote and not all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in addresses):
        raise ConfigError(
            f"target {url!r} is {addresses[0]}, which is not this machine; load can bring a server down, so say "
            "--yes-remote if you may do that to this one"
        )
    return Target(_listening(addresses, port), port, parts.netloc, parts.path.rstrip("/"))


def _listening(addresses: Sequence[str], port: int) -> str:
    """Choose the first address that takes a connection: `localhost` is often ::1 and 127.0.0.1, and one of them is it.

    Returns:
        Any of them if none does; that is told when it is asked.
    """
    for address in addresses if len(addresses) > 1 else ():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with contextlib.suppress(OSError), socket.socket(family) as one:
            one.settimeout(CONNECT_S)
            one.connect((address, port))
            return address
    return addresses[0]
