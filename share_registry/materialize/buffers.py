"""Memory that results are written into, and written into again.

Fresh memory is dear: a system hands out pages slower than a pass writes them. So what nobody holds
any more is used again; on a GPU torch does that itself.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import torch
from torch import Tensor

from share_registry.errors import InvalidInputError

Allocate = Callable[[int, torch.dtype], Tensor]
"""Returns so many numbers, not initialised."""
_LARGE_BYTES: Final = 1 << 20
"""What is smaller the allocator keeps at hand."""


@dataclass(slots=True)
class _Lent:
    """A piece of memory, and who has it: a view that lives as long as any tensor over it."""

    memory: Tensor
    holder: "weakref.ref[Any]"


class Recycled:
    """Memory on the CPU that is lent, and lent again when every tensor over it is gone.

    Safe for threads.

    What nobody has is kept until the next pass takes one piece of it and lets the rest go.
    """

    def __init__(self) -> None:
        self._pieces: list[_Lent] = []
        self._lock = Lock()

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """Return `count` numbers, not initialised, that no tensor in use overlaps."""
        size = count * dtype.itemsize
        if size < _LARGE_BYTES:
            return torch.empty(count, dtype=dtype, device="cpu")
        with self._lock:
            free = [piece for piece in self._pieces if piece.holder() is None]
            self._pieces = [piece for piece in self._pieces if piece.holder() is not None]
            memory = next(
                (piece.memory for piece in free if size <= piece.memory.nbytes <= 2 * size), None
            )
            del free  # what does not fit goes before new memory comes
            memory = (
                torch.empty(size, dtype=torch.uint8, device="cpu") if memory is None else memory
            )
            view = memory.numpy()[:size]
            self._pieces.append(_Lent(memory, weakref.ref(view)))
        return torch.from_numpy(view).view(dtype)

    def clear(self) -> None:
        """Give back what nobody has."""
        with self._lock:
            self._pieces = [piece for piece in self._pieces if piece.holder() is not None]


class Buffers:
    """Memory on one device, one stretch for each element type and pass.

    It grows where a pass needs more.

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
        self._taken: dict[torch.dtype, int] = {}

    @property
    def size_bytes(self) -> int:
        """Bytes held."""
        return sum(
            stretch.nbytes for stretches in self._stretches.values() for stretch in stretches
        )

    def begin(self) -> None:
        """Begin a pass: everything may be written again."""
        self._taken.clear()

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """Return `count` numbers, not initialised, that nothing else of this pass has."""
        stretches = self._stretches.setdefault(dtype, [])
        at = self._taken.get(dtype, 0)
        self._taken[dtype] = at + 1
        if at == len(stretches):
            stretches.append(self._allocate(count, dtype))
        elif stretches[at].numel() < count:
            stretches[at] = torch.empty(
                0, dtype=dtype, device=self.device
            )  # the old one goes before the new one comes
            stretches[at] = self._allocate(count, dtype)
        return stretches[at][:count]

    def _new(self, count: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(count, dtype=dtype, device=self.device)


def checked(out: Buffers, device: torch.device) -> Buffers:
    """Return buffers to write into. Raises InvalidInputError where they are no buffers of the device."""
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
