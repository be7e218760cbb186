"""A Unix socket to listen on: a file that comes and goes with the server."""

from __future__ import annotations

import contextlib
import errno
import socket
import stat
from pathlib import Path

from batchserve.errors import ConfigError

__all__ = ["PREFIX", "listen_unix", "remove_unix"]

PREFIX = "unix:"
"""What `server.host` begins with if the rest is the path of a Unix socket."""

_EXPECTED = f"expected {PREFIX} and a path of at most some 100 bytes in a folder that may be written"


def listen_unix(path: str) -> socket.socket:
    """Make the socket's file and listen on it.

    A file that a server left behind when it was killed is replaced; one that somebody listens on is not, nor is any
    other file. Who may connect is decided by the folder's permissions and the process's umask.

    Returns:
        The listening socket. The caller closes it, and removes the file with `remove_unix`.

    Raises:
        ConfigError: The path is taken, too long or may not be written.
    """
    if not path:  # the system would choose a name that nobody is told
        raise ConfigError(f"server.host = '{PREFIX}' cannot be listened on (there is no path); {_EXPECTED}")
    if _is_left_behind(path):
        Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(path)
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(_explain(error, path)) from error
    return listener


def remove_unix(listener: socket.socket) -> None:
    """Remove the file of a socket made by `listen_unix`; does nothing for sockets of other families."""
    if listener.family == socket.AF_UNIX:
        with contextlib.suppress(OSError):
            Path(listener.getsockname()).unlink()


def _is_left_behind(path: str) -> bool:
    """Say whether a path is a socket on which nobody listens."""
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return False
    except OSError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _explain(error: OSError, path: str) -> str:
    where = f"server.host = {PREFIX + path!r}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{where}: the path is taken by another server or file; stop that server, remove the file, or choose "
            "another path"
        )
    return f"{where} cannot be listened on ({error.strerror or error}); {_EXPECTED}"
