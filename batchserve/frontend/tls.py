"""HTTPS: the server's certificate, and whom of the clients it believes."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from batchserve.errors import ConfigError

if TYPE_CHECKING:
    from batchserve.config import ServerConfig

__all__ = ["HANDSHAKE_TIMEOUT_S", "SHUTDOWN_TIMEOUT_S", "tls_context"]

HANDSHAKE_TIMEOUT_S = 10.0
"""A connection without a handshake by then is closed; it is not counted as a connection yet."""

SHUTDOWN_TIMEOUT_S = 3.0
"""After an answer that ends its connection, a client has so long to say goodbye in TLS."""


def tls_context(config: ServerConfig) -> ssl.SSLContext | None:
    """Read the certificate that the configuration names; None if HTTP is to be spoken.

    Blocks for as long as it takes to read the files, which are read once.

    Raises:
        ConfigError: One key without the other, a file that cannot be read, or a key that is not the certificate's.
    """
    if not config.tls_cert:
        for name, value in (("tls_key", config.tls_key), ("tls_client_ca", config.tls_client_ca)):
            if value:
                raise ConfigError(
                    f"server.{name} is set, but server.tls_cert is not; expected both or neither: "
                    "name the server's certificate, too, to speak HTTPS"
                )
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # some builds of Python leave it to the system's configuration
    context.set_alpn_protocols(["http/1.1"])
    _check_readable("tls_cert", config.tls_cert)
    if config.tls_key:
        _check_readable("tls_key", config.tls_key)
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key or None, password=_no_password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        key = f" and server.tls_key = {config.tls_key!r}" if config.tls_key else ""
        raise ConfigError(
            f"server.tls_cert = {config.tls_cert!r}{key} cannot be used ({_words(error)}); "
            "expected a certificate chain and its own key, in PEM and without a password: "
            "if both lie in one file, leave tls_key out"
        ) from error
    if config.tls_client_ca:
        _check_readable("tls_client_ca", config.tls_client_ca)
        try:
            context.load_verify_locations(config.tls_client_ca)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"server.tls_client_ca = {config.tls_client_ca!r} cannot be used ({_words(error)}); "
                "expected certificates of authorities in PEM"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check_readable(key: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ConfigError(
            f"server.{key} = {path!r} cannot be read ({_words(error)}); expected a file in PEM that this user may read"
        ) from error


def _no_password() -> str:
    """Refuse to ask on the terminal, which would hold the start for ever where nobody sits."""
    raise ValueError("the key has a password")


def _words(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
