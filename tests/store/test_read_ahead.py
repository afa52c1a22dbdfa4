"""What is read ahead stays within its bounds, and is given once."""

import threading
from collections.abc import Iterator

import pytest

from share_registry.format.canonical import sha256
from share_registry.names import Digest
from share_registry.store import read_ahead
from share_registry.store.read_ahead import ReadAhead

DIGESTS = [sha256(bytes([number])) for number in range(40)]
PATIENCE_S = 30.0


@pytest.fixture
def asked() -> list[Digest]:
    """What was read, in order."""
    return []


@pytest.fixture
def ahead(asked: list[Digest]) -> Iterator[ReadAhead]:
    def read(digest: Digest) -> bytes:
        asked.append(digest)
        return digest.encode()

    reader = ReadAhead(read)
    yield reader
    reader.close()


def test_what_waits_is_bounded_by_its_bytes(
    ahead: ReadAhead, asked: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "_HELD_BYTES", 3 * 64)
    monkeypatch.setattr(read_ahead, "AT_ONCE", 1)
    ahead.start(DIGESTS[:20])
    given = [ahead.take(digest) for digest in reversed(DIGESTS[:20])]
    # one that is taken makes room; of the others nothing was read
    assert 3 <= sum(content is not None for content in given) < 20
    assert len(asked) == sum(content is not None for content in given)
    assert all(
        content in (None, digest.encode())
        for content, digest in zip(given, reversed(DIGESTS[:20]), strict=True)
    )


def test_those_that_nobody_asks_for_make_room_for_others(ahead: ReadAhead) -> None:
    ahead.start(DIGESTS[:30])
    ahead.start(DIGESTS[30:])
    assert ahead.take(DIGESTS[0]) is None, "given up, as too many wait"
    assert ahead.take(DIGESTS[-1]) == DIGESTS[-1].encode()
    assert ahead.take(DIGESTS[-1]) is None, "given once"


def test_one_that_is_closed_begins_nothing(ahead: ReadAhead, asked: list[Digest]) -> None:
    ahead.close()
    ahead.start(DIGESTS)
    assert ahead.take(DIGESTS[0]) is None
    assert asked == []


def test_an_error_is_raised_where_the_object_is_asked_for() -> None:
    begun = threading.Event()

    def fail(_: Digest) -> bytes:
        begun.set()
        raise ValueError("gone")

    reader = ReadAhead(fail)
    reader.start(DIGESTS[:1])
    assert begun.wait(PATIENCE_S)
    with pytest.raises(ValueError, match="gone"):
        reader.take(DIGESTS[0])
    reader.close()
