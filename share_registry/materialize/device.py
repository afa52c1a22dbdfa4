"""Where results are computed, and the memory that they are written into.

A target is a torch device with the element types of results and of the computation. On a GPU what
is loaded goes through pinned memory on a stream of its own; `settle` waits for it, so that any
stream may use it afterwards.

Fresh memory is dear: a system gives out pages slower than a pass writes them. So what nobody uses
any more is written again; on a GPU torch does that itself.
"""

import weakref
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from share_registry import kinds
from share_registry.errors import InvalidInputError, ensure
from share_registry.kinds import member_of, shown, takes

_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# Of intermediate results on the CPU: 1 MiB of float32, which the second-level cache holds.
SCRATCH_NUMBERS: Final = 1 << 18
_COUNT: Final = kinds.whole(0, "Give a number of elements.", most=1 << 48)
# Times as much on a GPU, where a launch is dearer than memory.
_ON_GPU: Final = 64
# Returns so many numbers, not initialised.
Allocate = Callable[[int, torch.dtype], Tensor]
# What is smaller the allocator keeps at hand.
_LARGE_BYTES: Final = 1 << 20


class DeviceTarget:
    """A device with what is computed there.

    Args:
        device: The device.
        dtype: Element type of floating results; None for each tensor's own.
        exact: Whether results are the reference path's bytes, computed in float64.
    """

    def __init__(self, device: torch.device, *, dtype: torch.dtype | None, exact: bool) -> None:
        self.device, self.dtype, self.exact = device, dtype, exact
        self.is_cuda = device.type == "cuda"
        self.compute = (
            torch.bfloat16
            if self.is_cuda and dtype == torch.bfloat16 and not exact
            else torch.float32
        )
        self.keeps_floats = self.is_cuda and not exact
        self.scratch_numbers = SCRATCH_NUMBERS * (_ON_GPU if self.is_cuda else 1)
        self._loading = torch.cuda.Stream(device) if self.is_cuda else None  # type: ignore[no-untyped-call]

    def of(self, own: torch.dtype) -> torch.dtype:
        """Return the element type of a result whose own is given."""
        return self.dtype if self.dtype is not None and own.is_floating_point else own

    def send(
        self, values: "NDArray[np.generic] | Tensor", dtype: torch.dtype | None = None
    ) -> Tensor:
        """Return values on the device, in an element type or their own.

        They may still be on their way until `settle`.
        """
        host = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
        if self._loading is None:
            return host.to(self.device, dtype or host.dtype)
        with torch.cuda.stream(self._loading):
            return host.pin_memory().to(self.device, non_blocking=True).to(dtype or host.dtype)

    def settle(self) -> None:
        """Wait until everything sent is there."""
        if self._loading is not None:
            self._loading.synchronize()

    def use(self, tensors: Iterable[Tensor]) -> None:
        """Say that the current stream is about to read tensors.

        Their memory is not given to another load before it has.
        """
        if self.is_cuda:
            stream = torch.cuda.current_stream(self.device)
            for tensor in tensors:
                tensor.record_stream(stream)

    def idle(self) -> None:
        """Wait until nothing uses the device: only then may what is resident be dropped."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)


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

    @takes(count=_COUNT, dtype=kinds.of(torch.dtype, "a torch dtype", "Give torch.float32."))
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


def device_of(device: str | torch.device) -> str:
    """Return the name of a device that is there. Raises InvalidInputError."""
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"device {shown(device)} is not a torch device.", hint="Use cpu, cuda or cuda:<index>."
        ) from error
    ensure(
        parsed.type != "meta",
        InvalidInputError(
            "device 'meta' has no numbers, expected one that has.",
            hint="Use cpu, cuda or cuda:<index>.",
        ),
    )
    try:
        torch.empty(0, dtype=torch.float32, device=parsed)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ", ".join(["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))])
        raise InvalidInputError(
            f"device {str(parsed)!r} is not there; there is {there}.", hint="Use one of these."
        ) from error
    return str(parsed)


def computing_device(device: str) -> str:
    """Return the name of a device that computes in float64. Raises InvalidInputError."""
    name = device_of(device)
    try:
        float(torch.ones(1, dtype=torch.float64, device=name).sum())
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise InvalidInputError(
            f"device {name!r} does not compute in float64.",
            hint="Use cpu or cuda for commits and refits.",
        ) from error
    return name


def dtype_of(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return a floating torch dtype of a dtype or its name. Raises InvalidInputError."""
    if dtype is None:
        return None
    named = member_of(torch, dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if not isinstance(named, torch.dtype) or named not in _DTYPES:
        raise InvalidInputError(
            f"dtype {shown(dtype)} is not a floating torch dtype that adapters have.",
            hint="Use float32, float16, bfloat16 or float64.",
        )
    return named


def check_buffers(out: Buffers, device: torch.device) -> Buffers:
    """Return buffers to write into. Raises InvalidInputError unless they are of the device."""
    if not isinstance(out, Buffers):
        raise InvalidInputError(
            f"out is {type(out).__name__}, expected Buffers.",
            hint="Make them once with `materializer.buffers()`.",
        )
    ensure(
        out.device == device,
        InvalidInputError(
            f"out is on {out.device}, results are made on {device}.",
            hint="Make it with `buffers()` of the same materializer.",
        ),
    )
    return out
