"""A socket to listen at."""

import socket

from share_registry.errors import InvalidInputError


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address.

    Args:
        host: Name or IP address.
        port: 0 for any that is free.

    Raises:
        InvalidInputError: the address is none of this machine, or in use.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family)
    # a name that cannot be encoded is UnicodeError
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise InvalidInputError(
            f"cannot listen at {host}, port {port}: {reason or error}.",
            hint="Give another host= or port=.",
        ) from error


def port_of(listener: socket.socket) -> int:
    """Return the port that a socket is bound to."""
    port: int = listener.getsockname()[1]
    return port
