"""Connections that nothing becomes of are closed, so that they keep nobody else out.

uvicorn answers a bounded number of connections, and waits for the first request of one for ever, as
for a client that does not read what it asked for. Neither costs the client anything, nor a token.
"""

import asyncio
from typing import Final

from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

_LIMIT_S: Final = 10.0


class WatchedConnection(H11Protocol):
    """Looks at itself from time to time, and ends where nothing has happened since the last look.

    What happens is that a request is complete, that it is being answered, or that some of an answer
    is taken. Bytes of a head that is not complete are nothing.
    """

    limit_s: float = _LIMIT_S
    """How long nothing may happen, in seconds; what had happened before ends it twice as late."""
    _watch: asyncio.TimerHandle | None = None
    _pauses: int = 0

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look_again()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    @override
    def pause_writing(self) -> None:
        self._pauses += 1
        super().pause_writing()

    def _look_again(self) -> None:
        self._watch = self.loop.call_later(self.limit_s, self._look, self._progress())

    def _look(self, before: object) -> None:
        unread_bytes = self.transport.get_write_buffer_size()
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if self._progress() != before or (is_answering and not unread_bytes):
            self._look_again()
        else:
            # not close(), which waits for the client to read the rest
            self.transport.abort()

    def _progress(self) -> tuple[object, int, int]:
        """Return what changes with each request, and with what the client has read.

        What is unread only shrinks until writing goes on, which the next pause tells.
        """
        return self.cycle, self._pauses, self.transport.get_write_buffer_size()
