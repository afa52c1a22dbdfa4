"""Memory that results are written into, and written into again.

Fresh memory is dear: a system gives out pages slower than a pass writes them. So what nobody uses
any more is written again; on a GPU torch does that itself.
"""

import weakref
from collections.abc import Callable
from threading import Lock
from typing import Any, Final

import torch
from torch import Tensor

from share_registry.errors import InvalidInputError

# Returns so many numbers, not initialised.
Allocate = Callable[[int, torch.dtype], Tensor]
# What is smaller the allocator keeps at hand.
_LARGE_BYTES: Final = 1 << 20


class Recycled:
    """Memory on the CPU that is lent, and lent again when every tensor over it is gone.

    Safe for threads. What nobody has is kept until the next pass takes one piece of it and lets the
    rest go.
    """

    def __init__(self) -> None:
        # pieces, each with the view that lives as long as any tensor over it
        self._pieces: list[tuple[Tensor, weakref.ref[Any]]] = []
        self._lock = Lock()

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """Return `count` numbers, not initialised, that no tensor in use overlaps."""
        size = count * dtype.itemsize
        if size < _LARGE_BYTES:
            return torch.empty(count, dtype=dtype, device="cpu")
        with self._lock:
            fitting = (
                memory
                for memory, view in self._pieces
                if view() is None and size <= memory.nbytes <= 2 * size
            )
            memory = next(fitting, None)
            # what is free and does not fit goes before new memory comes
            del fitting
            self._drop_free()
            if memory is None:
                memory = torch.empty(size, dtype=torch.uint8, device="cpu")
            lent = memory.numpy()[:size]
            self._pieces.append((memory, weakref.ref(lent)))
        return torch.from_numpy(lent).view(dtype)

    def clear(self) -> None:
        """Give back what nobody has."""
        with self._lock:
            self._drop_free()

    def _drop_free(self) -> None:
        self._pieces = [piece for piece in self._pieces if piece[1]() is not None]


class Buffers:
    """Memory on one device, one stretch for each element type and pass; it grows where needed.

    Results of an earlier pass into the same buffers are overwritten by the next. Not for two
    threads at once.

    Args:
        device: The device.
        allocate: Where the memory comes from; torch where None.
    """

    def __init__(self, device: torch.device, allocate: Allocate | None = None) -> None:
        self.device = device
        self._allocate = allocate or self._new
        self._stretches: dict[torch.dtype, list[Tensor]] = {}
        self._used: dict[torch.dtype, int] = {}

    @property
    def size_bytes(self) -> int:
        """Bytes of all stretches."""
        return sum(
            stretch.nbytes for stretches in self._stretches.values() for stretch in stretches
        )

    def begin(self) -> None:
        """Begin a pass: everything may be written again."""
        self._used.clear()

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """Return `count` numbers, not initialised, that nothing else of this pass has."""
        stretches = self._stretches.setdefault(dtype, [])
        at = self._used.get(dtype, 0)
        self._used[dtype] = at + 1
        if at == len(stretches):
            stretches.append(self._allocate(count, dtype))
        elif stretches[at].numel() < count:
            # the old one goes before the new one comes
            stretches[at] = self._new(0, dtype)
            stretches[at] = self._allocate(count, dtype)
        return stretches[at][:count]

    def _new(self, count: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(count, dtype=dtype, device=self.device)


def check_buffers(out: Buffers, device: torch.device) -> Buffers:
    """Return buffers to write into. Raises InvalidInputError unless they are of the device."""
    if not isinstance(out, Buffers):
        raise InvalidInputError(
            f"out is {type(out).__name__}, expected Buffers.",
            hint="Make them once with `materializer.buffers()`.",
        )
    if out.device != device:
        raise InvalidInputError(
            f"out is on {out.device}, results are made on {device}.",
            hint="Make it with `buffers()` of the same materializer.",
        )
    return out
