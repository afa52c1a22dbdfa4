"""What is given back to the system is no longer counted as the process's."""

import sys
from pathlib import Path

import pytest

from share_registry.memory import _LARGE, _trim, give_back

BLOCK, BLOCKS = 64 << 10, 1000
PAGE = 4096


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.mark.skipif(sys.platform != "linux" or _trim() is None, reason="needs glibc's allocator")
def test_memory_between_what_is_kept_is_given_back_after_large_work_alone() -> None:
    blocks = [bytes([1]) * BLOCK for _ in range(2 * BLOCKS)]
    kept = blocks[::2]
    full = resident_bytes()
    del blocks
    give_back(_LARGE - 1)
    before = resident_bytes()
    give_back(_LARGE)
    after = resident_bytes()
    freed = BLOCK * BLOCKS
    assert full - before < freed / 2
    assert before - after > freed / 2
    assert all(block[-1] == 1 for block in kept)


def test_without_the_function_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("share_registry.memory._trim", lambda: None)
    give_back(_LARGE)
