"""Where results are made.

A torch device, the element type of results and the one that is computed in.

On a GPU what is loaded goes through pinned memory on a stream of its own; `settle` waits for it, so
that any stream may use it afterwards.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from share_registry.errors import InvalidInputError

SCRATCH_NUMBERS: Final = 1 << 18
"""Of intermediate results on the CPU: 1 MiB of float32, which the second-level cache holds."""
_ON_GPU: Final = 64
"""Times as much on a GPU, where a launch is dearer than memory."""


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
            sent = host.pin_memory().to(self.device, non_blocking=True)
            return sent.to(dtype or host.dtype)

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


_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def device_of(device: str | torch.device) -> str:
    """Return the name of a device that is there. Raises InvalidInputError."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InvalidInputError(
            f"device {device!r} is not a torch device.", hint="Use cpu, cuda or cuda:<index>."
        ) from error
    if found.type == "meta":
        raise InvalidInputError(
            "device 'meta' has no numbers, expected one that has.",
            hint="Use cpu, cuda or cuda:<index>.",
        )
    try:
        torch.empty(0, dtype=torch.float32, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ", ".join(["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))])
        raise InvalidInputError(
            f"device {str(found)!r} is not there; there is {there}.", hint="Use one of these."
        ) from error
    return str(found)


def computing_device(device: str) -> str:
    """Return the name of a device that is there and computes in float64. Raises InvalidInputError."""
    found = device_of(device)
    try:
        float(torch.ones(1, dtype=torch.float64, device=found).sum())
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise InvalidInputError(
            f"device {found!r} does not compute in float64.",
            hint="Use cpu or cuda for commits and refits.",
        ) from error
    return found


def dtype_of(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return a floating torch dtype of a dtype or its name. Raises InvalidInputError."""
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if found is None and dtype is None:
        return None
    if found not in _DTYPES:
        raise InvalidInputError(
            f"dtype {dtype!r} is not a floating torch dtype that adapters have.",
            hint="Use float32, float16, bfloat16 or float64.",
        )
    return found
