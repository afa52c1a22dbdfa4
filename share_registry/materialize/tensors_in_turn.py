"""Tensors of an adapter file that are decoded when they are asked for."""

from collections.abc import Iterator, Mapping
from typing import Final

import torch

from share_registry.exchange.tensors import tensor_groups
from share_registry.materialize.decoder import GroupedAdapter

# Numbers that are decoded together: what is made of them stays in the cache of a core
_TOGETHER: Final = 1 << 19


class TensorsInTurn(Mapping[str, torch.Tensor]):
    """The tensors of an adapter file by key, in its order, of which a few are in memory.

    Neighbours are decoded together and given up when another is asked for. So in the order of the
    file each is decoded once, unless the tensors of a factor pair lie far apart in it.

    Not for several threads at once. Raises IntegrityError where a tensor is damaged.
    """

    def __init__(self, decoded: GroupedAdapter) -> None:
        self._decoded, layout = decoded, decoded.layout
        groups = {
            index: group
            for group in tensor_groups(layout, elements=_TOGETHER)
            for index in group.tensors_in(layout)
        }
        self._groups = {spec.key: groups[index] for index, spec in enumerate(layout.tensors)}
        self._present: dict[str, torch.Tensor] = {}

    def __getitem__(self, key: str) -> torch.Tensor:
        """Return a tensor."""
        if key not in self._present:
            group = self._groups[key]
            # given up first: their memory is used again
            self._present = {}
            self._present = self._decoded.tensors(group, self._decoded.modules(group))
        return self._present[key]

    def __iter__(self) -> Iterator[str]:
        """Yield the keys in the order of the file."""
        return iter(self._groups)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self._groups)
