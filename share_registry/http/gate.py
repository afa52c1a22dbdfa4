"""What every request must pass: host, length, method, token.

A page in a browser may send requests to this machine under a name of its own that it lets point
here. So the Host that a request names must be one that the server goes by. Beyond this machine a
token is asked for as well.
"""

import hmac
from base64 import b64decode
from ipaddress import ip_address
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.http.answers import JsonAnswer, error_answer

HEALTH: Final = "/healthz"
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})
_METHODS: Final = ("GET", "HEAD")
_LONGEST_PATH: Final = 1024
# Characters of a token: fewer can be guessed
_SHORTEST_TOKEN: Final = 16
_BASIC: Final = 'Basic realm="share-registry, the token as password", charset="UTF-8"'


class Gate:
    """Refuses what is not to reach the application.

    Args:
        app: The application.
        host: Where the server listens.
        token: What requests must bring; None asks for none.
        basic: Whether it may come as a password too, whoever the user is: what browsers ask for.
    """

    def __init__(self, app: ASGIApp, *, host: str, token: str | None, basic: bool = False) -> None:
        self._app = app
        self._basic = basic
        self._hosts = None if host in _EVERYWHERE else {*_LOOPBACK_NAMES, host.lower()}
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        answer = self._refusal(scope) if scope["type"] == "http" else None
        await (answer or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JsonAnswer | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or (self._hosts is not None and _name(hosts[0]) not in self._hosts):
            error = RefusedError(
                "the Host of this request is none that this server goes by.",
                hint="Ask for it by the address it was started with.",
            )
            return error_answer(error, status=421)
        if len(scope.get("raw_path") or scope["path"]) > _LONGEST_PATH:
            too_long = InvalidInputError(
                f"the path has more than {_LONGEST_PATH} characters.",
                hint="Names have at most 64 characters.",
            )
            return error_answer(too_long, status=414)
        if not scope["path"].isprintable():
            unreadable = InvalidInputError(
                "the path has characters that cannot be printed.", hint="No name has any."
            )
            return error_answer(unreadable, status=400)
        if _is_elsewhere(headers):
            error = RefusedError(
                "a page of another site asks for this one in the background.",
                hint="Follow a link to it, or ask for it without a browser.",
            )
            return error_answer(error, status=403)
        if scope["method"] not in _METHODS:
            refused = RefusedError("this server only reads.", hint="Use GET or HEAD.")
            return error_answer(refused, status=405, headers={"Allow": ", ".join(_METHODS)})
        if scope["path"] != HEALTH and not self._is_let_in(headers.getlist("authorization")):
            refused = RefusedError(
                "this server asks for its token.", hint="Send `Authorization: Bearer TOKEN`."
            )
            scheme = _BASIC if self._basic else "Bearer"
            return error_answer(refused, status=401, headers={"WWW-Authenticate": scheme})
        return None

    def _is_let_in(self, credentials: list[str]) -> bool:
        if self._token is None:
            return True
        scheme, _, token = (credentials[0] if len(credentials) == 1 else "").partition(" ")
        if self._basic and scheme.lower() == "basic":
            scheme, token = "bearer", _password(token)
        # of both in the same time, whatever they have in common
        is_same = hmac.compare_digest(token.strip().encode(), self._token)
        return is_same and scheme.lower() == "bearer"


def check_token(token: str | None, *, host: str) -> str | None:
    """Return the token that requests must bring; None where none is needed.

    Raises:
        InvalidInputError: it can be guessed, or is not sent in a header as it is.
        RefusedError: there is none, and `host` can be reached from other machines.
    """
    if token is None:
        ensure(
            is_loopback(host),
            RefusedError(
                f"{host} can be reached from other machines, and there is no token.",
                hint="Put 16 characters or more into a file and give token_file=, or set "
                "$SHARE_REGISTRY_SERVE_TOKEN.",
            ),
        )
        return None
    token = token.strip()
    is_plain = token.isascii() and token.isprintable() and " " not in token
    ensure(
        is_plain and len(token) >= _SHORTEST_TOKEN,
        InvalidInputError(
            f"the token is not {_SHORTEST_TOKEN} or more letters, digits and signs of ASCII.",
            hint="Make one with `openssl rand -hex 32`.",
        ),
    )
    return token


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_elsewhere(headers: Headers) -> bool:
    """Tell whether a page of another site asks, other than by a link: for nothing but the work.

    A frame within that page navigates too.
    """
    purpose = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    is_link = purpose == ("navigate", "document")
    return headers.get("sec-fetch-site") in ("cross-site", "same-site") and not is_link


def _password(credentials: str) -> str:
    """Return the password of `Basic` credentials, "" where there is none."""
    try:
        return b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _name(host: str) -> str:
    """Return a Host without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
