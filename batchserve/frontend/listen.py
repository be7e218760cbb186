"""Listening sockets, and what to tell a person when they cannot be had."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from typing import Any

from batchserve.errors import ConfigError
from batchserve.frontend.unix_socket import PREFIX, listen_unix

__all__ = ["listen", "url_of"]

_FREE_PORT_TRIES = 5

_NO_SUCH_FAMILY = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # only compared with: says where to reach them from here

_Address = tuple[int, tuple[Any, ...]]


async def listen(host: str, port: int) -> list[socket.socket]:
    """Bind every address that a host name has here, all with one port; or a Unix socket.

    Args:
        host: A name or address of this machine, or `unix:` and a path.
        port: The port; 0 takes a free one.

    Returns:
        Bound sockets that do not listen yet, at least one. The caller closes them.

    Raises:
        ConfigError: The name is unknown, the port is taken, or binding is not allowed.
    """
    if host.startswith(PREFIX):
        return [listen_unix(host.removeprefix(PREFIX))]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"server.host = {host!r} is no address that can be found ({_words(error)}); "
            "expected a name or address of this machine, such as 127.0.0.1, 0.0.0.0 or localhost"
        ) from error
    addresses = list(dict.fromkeys((family, tuple(address)) for family, _, _, _, address in found))
    tries = 1 if port else _FREE_PORT_TRIES
    while True:
        tries -= 1
        try:
            return _bind_all(addresses, port)
        except OSError as error:
            # A port that is free on one of the host's addresses may be taken on another: look for one that is not.
            if error.errno != errno.EADDRINUSE or not tries:
                raise ConfigError(_explain(error, host, port)) from error


def _bind_all(addresses: Sequence[_Address], port: int) -> list[socket.socket]:
    bound: list[socket.socket] = []
    refusal: OSError | None = None
    try:
        for family, address in addresses:
            try:
                listener = _bind(family, (address[0], port, *address[2:]))
            except OSError as error:
                if error.errno not in _NO_SUCH_FAMILY:
                    raise
                refusal = error  # localhost may name ::1 on a machine without IPv6
                continue
            bound.append(listener)
            port = listener.getsockname()[1]
    except BaseException:
        _close(bound)
        raise
    if not bound:
        raise refusal or OSError(errno.EADDRNOTAVAIL, "no address to listen on")
    return bound


def _bind(family: int, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen()  # binding alone lets another socket with the same option take the port, too
    except BaseException:
        listener.close()
        raise
    return listener


def _close(sockets: Sequence[socket.socket]) -> None:
    for listener in sockets:
        listener.close()


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"server.port = {port} on {host} is taken by another program; "
            "stop that program, or choose another port (0 takes a free one)"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"server.port = {port} on {host} may not be used by this user; expected a port from 1024 on, or 0 for any"
        )
    if error.errno in _NO_SUCH_FAMILY:
        return (
            f"server.host = {host!r} is not an address of this machine; "
            "expected one that is, such as 127.0.0.1, or 0.0.0.0 for all"
        )
    return f"cannot listen on server.host = {host!r}, server.port = {port}: {_words(error)}"


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """Return a URL under which the socket can be reached from this machine; `unix:` and its path for a Unix socket."""
    if listener.family == socket.AF_UNIX:
        return f"{PREFIX}{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    host = _WILDCARDS.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
