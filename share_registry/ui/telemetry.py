"""What is told to a monitoring system, in the text format of Prometheus."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any, Final

from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from share_registry.errors import ShareRegistryError
from share_registry.outside.files import Outside
from share_registry.registry.browsing import known_spaces
from share_registry.registry.registry import Registry

_LOG: Final = logging.getLogger(__name__)
# Upper ends of classes of duration, in seconds
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ELSEWHERE: Final = "other"


class Telemetry:
    """Counts the requests and how long they took, by route; safe for threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._classes: Counter[tuple[str, float]] = Counter()

    def add(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        with self._lock:
            self._requests[route, status] += 1
            self._seconds[route] += seconds
            self._classes.update((route, end) for end in _BUCKETS if seconds <= end)

    def lines(self) -> list[str]:
        """Return what was counted."""
        with self._lock:
            return [*self._lines()]

    def _lines(self) -> Iterator[str]:
        yield from _head("requests_total", "counter", "Requests, by route and status.")
        totals: Counter[str] = Counter()
        for (route, status), number in sorted(self._requests.items()):
            totals[route] += number
            yield _line("requests_total", number, route=route, status=status)
        yield from _head("request_seconds", "histogram", "Until the last byte of an answer.")
        for route, total in sorted(totals.items()):
            for end in _BUCKETS:
                yield _line(
                    "request_seconds_bucket", self._classes[route, end], route=route, le=end
                )
            yield _line("request_seconds_bucket", total, route=route, le="+Inf")
            yield _line("request_seconds_sum", self._seconds[route], route=route)
            yield _line("request_seconds_count", total, route=route)


class Meter:
    """Counts what an application answers.

    Args:
        app: The application.
        telemetry: Counts.
        outside: Has the clock.
        routes: What the application answers: a request counts by the pattern of its path, as paths
            are without number.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        telemetry: Telemetry,
        outside: Outside,
        routes: Sequence[BaseRoute],
    ) -> None:
        self._app = app
        self._telemetry = telemetry
        self._outside = outside
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        begin = self._outside.monotonic()
        try:
            await self._app(scope, receive, send_and_see)
        finally:
            seconds = self._outside.monotonic() - begin
            self._telemetry.add(_pattern(self._routes, scope), status, seconds)


def registry_lines(registry: Registry) -> list[str]:
    """Return whether a registry and each of its spaces could be read, and what those hold."""
    up = [*_head("up", "gauge", "Whether the registry could be read.")]
    try:
        summaries = known_spaces(registry.context, registry.scope)
    except ShareRegistryError as error:
        _LOG.warning("the registry cannot be read for its numbers: %s", error)
        return [*up, _line("up", 0)]
    spaces, unknown = summaries.spaces, summaries.unknown
    for space, reason in sorted(unknown.items()):
        _LOG.warning("space %s cannot be read for its numbers: %s", space, reason)
    readable: dict[str, int] = {space.name: 1 for space in spaces}
    readable.update((name, 0) for name in unknown)
    versions: dict[str, int] = {
        space.name: summaries.versions.get(space.name, 0) for space in spaces
    }
    gauges: tuple[tuple[str, str, dict[str, int]], ...] = (
        ("space_up", "Whether the newest state of the space is known.", readable),
        ("tasks", "Live tasks.", {space.name: space.tasks for space in spaces}),
        ("commits", "Commits.", {space.name: space.commits for space in spaces}),
        ("versions", "Versions, with those removed since.", versions),
        ("added_bytes", "Bytes brought by versions.", {s.name: s.bytes_added for s in spaces}),
        ("raw_bytes", "Bytes of the tensor files given.", {s.name: s.raw_bytes for s in spaces}),
    )
    lines = [*up, _line("up", 1)]
    lines += [*_head("spaces", "gauge", "Spaces."), _line("spaces", len(readable))]
    for name, text, values in gauges:
        lines += _head(name, "gauge", text)
        lines += [_line(name, value, space=space) for space, value in sorted(values.items())]
    return lines


def _pattern(routes: Sequence[BaseRoute], scope: Scope) -> str:
    for route in routes:
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            return route.path
    return _ELSEWHERE


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP share_registry_{name} {text}"
    yield f"# TYPE share_registry_{name} {kind}"


def _line(name: str, value: float, **labels: Any) -> str:
    """Return one line; values of labels are names and patterns, in which nothing is quoted."""
    pairs = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return f"share_registry_{name}{f'{{{pairs}}}' if pairs else ''} {value:.12g}"
