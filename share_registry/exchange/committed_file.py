"""The tensor file of a version, made as it is read.

Its tensors may be decoded one after another meanwhile, so that neither they nor the file are in
memory as a whole. That it is what was committed is known at its end.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from share_registry.errors import IntegrityError, ensure
from share_registry.exchange.export_files import parts_in_order, size_of_file
from share_registry.format.layout import Layout
from share_registry.names import Digest


@dataclass(frozen=True, kw_only=True)
class CommittedFile:
    """adapter_model.safetensors of a version: what was committed, or it cannot be read to its end.

    Attributes:
        layout: Its layout.
        tensors: Its tensors by key, as the layout says; asked for in order whenever it is read.
        digest: The sha256 that the commit says.
        ref: The version, as errors name it.
    """

    layout: Layout
    tensors: Mapping[str, torch.Tensor]
    digest: Digest
    ref: str

    def __len__(self) -> int:
        """Return its size in bytes."""
        return self._size

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield its bytes in parts. Raises IntegrityError, also after the last."""
        digest = hashlib.sha256()
        for part in parts_in_order(
            self.layout, (self.tensors[spec.key] for spec in self.layout.tensors)
        ):
            digest.update(part)
            yield part
        require_committed(Digest(digest.hexdigest()), self.digest, self.ref)

    @cached_property
    def _size(self) -> int:
        return size_of_file(self.layout)

    def __bytes__(self) -> bytes:
        """Return it as a whole. Raises IntegrityError."""
        return b"".join(self)


def require_committed(rebuilt: Digest, committed: Digest, ref: str) -> None:
    """Check that a tensor file is that of the commit, byte for byte (spec DEC-12).

    Raises IntegrityError.
    """
    ensure(
        rebuilt == committed,
        IntegrityError(
            f"{ref}: rebuilt tensors have digest {rebuilt}, the commit says {committed}.",
            hint="Run verify with level 'deep'.",
        ),
    )
