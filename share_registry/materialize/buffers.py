"""Memory that results are written into, and written into again."""

import torch
from torch import Tensor

from share_registry.errors import InvalidInput


class Buffers:
    """Memory on one device, one stretch for each element type and pass; it grows where a pass needs more.

    Results of an earlier pass into the same buffers are overwritten by the next. Not for two threads at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stretches: dict[torch.dtype, list[Tensor]] = {}
        self._taken: dict[torch.dtype, int] = {}

    @property
    def size_bytes(self) -> int:
        """Bytes held."""
        return sum(stretch.nbytes for stretches in self._stretches.values() for stretch in stretches)

    def begin(self) -> None:
        """Begin a pass: everything may be written again."""
        self._taken.clear()

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """Return `count` numbers, not initialised, that nothing else of this pass has."""
        stretches = self._stretches.setdefault(dtype, [])
        at = self._taken.get(dtype, 0)
        self._taken[dtype] = at + 1
        if at == len(stretches):
            stretches.append(torch.empty(count, dtype=dtype, device=self.device))
        elif stretches[at].numel() < count:
            stretches[at] = torch.empty(0, dtype=dtype, device=self.device)  # the old one goes before the new one comes
            stretches[at] = torch.empty(count, dtype=dtype, device=self.device)
        return stretches[at][:count]


def checked(out: "Buffers | None", device: torch.device) -> Buffers:
    """Return buffers to write into, new ones where none are given. Raises InvalidInput where they are no buffers of the device."""
    if out is None:
        return Buffers(device)
    if not isinstance(out, Buffers):
        raise InvalidInput(f"out is {type(out).__name__}, expected Buffers.", hint="Make them once with `materializer.buffers()`.")
    if out.device != device:
        raise InvalidInput(f"out is on {out.device}, results are made on {device}.", hint="Make it with `buffers()` of the same materializer.")
    return out
