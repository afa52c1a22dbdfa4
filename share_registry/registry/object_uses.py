"""What an adapter object refers to, and how: for its rows alone, or for all that it decodes to."""

from collections.abc import Iterator
from dataclasses import dataclass

from share_registry.format import adapter_object
from share_registry.format.object_file import description
from share_registry.names import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Uses:
    """What an adapter object refers to.

    Attributes:
        layout: Its layout, without which it cannot be parsed.
        sources: Adapter and basis objects of which it needs the rows that they hold themselves, not
            what those build upon.
        previous: The adapter object whose decoded factors enter.
        tensors: Tensors that it keeps apart.
    """

    layout: Digest
    sources: tuple[Digest, ...]
    previous: Digest | None
    tensors: tuple[Digest, ...]

    def __iter__(self) -> Iterator[Digest]:
        """Yield every object."""
        yield from (self.layout, *self.sources, *self.tensors)
        yield from filter(None, [self.previous])


def uses_of(content: bytes) -> Uses | None:
    """Return what an object refers to; None where it is a basis, which refers to nothing.

    A kind that is not known may refer to anything, and is refused. Raises IntegrityError.
    """
    if description(content, subject="object").get("kind") == "basis":
        return None
    header = adapter_object.header(content)
    return Uses(
        layout=header.layout,
        sources=tuple(header.sources),
        previous=header.previous,
        tensors=tuple(item.object for item in header.external),
    )
