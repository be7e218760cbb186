"""Where load goes: an address of this machine, unless somebody says that another one is meant."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from batchserve.errors import ConfigError

__all__ = ["Target", "parse_target"]


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
    return Target(addresses[0], port, parts.netloc, parts.path.rstrip("/"))
