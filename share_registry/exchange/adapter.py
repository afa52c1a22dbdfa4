"""Adapter: one LoRA adapter in memory, as read from files, a live model or the registry."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from share_registry import kinds
from share_registry.format.layout import Layout
from share_registry.format.notes import Source
from share_registry.kinds import wrong_kind
from share_registry.look.units import percent, size
from share_registry.names import Digest
from share_registry.outside.files import Outside
from share_registry.values.sheet import Sheet, Shown

if TYPE_CHECKING:
    import torch

    from share_registry.algebra.error import FactorPair


# What the members of an adapter are
_KINDS: Final[Mapping[str, Any]] = {
    "tensors": Mapping,
    "config": Mapping,
    "config_bytes": bytes,
    "layout": Layout,
    "attachments": Mapping,
    "source": Source,
    "source_digest": str,
    "raw_bytes": int,
    "original": Mapping,
    "remarks": tuple,
    "ref": (str, NoneType),
    "error": (float, int, NoneType),
    "basis": (str, NoneType),
    "parent": (str, NoneType),
    "tensors_digest": (str, NoneType),
}


def _expected(kind: type | tuple[type, ...]) -> str:
    kinds_of = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(each.__name__ for each in kinds_of).replace("NoneType", "None")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter(Shown):
    """One adapter.

    Attributes:
        tensors: PEFT key -> tensor, in file order: factors and passengers.
        config: adapter_config.json, parsed.
        config_bytes: adapter_config.json, verbatim.
        layout: What the tensors are.
        attachments: Other files of the directory, by name, verbatim.
        source: Where it came from.
        source_digest: sha256 of canonical JSON over config, metadata, tensors and attachments:
            equal for equal adapters, wherever they lie.
        raw_bytes: Bytes of the tensor file.
        original: Files exactly as read, for keeping them; empty where it did not come from files.
        remarks: What is not kept or is worth knowing.
        ref: `space/task@vN` where it was checked out of a registry.
        error: Pooled relative error of scaled dW against what was committed, where it was checked
            out.
        basis: Basis object that it was trained in, where it was trained in one.
        parent: `space/task@vN` that it was made from, where it is known.
        tensors_digest: sha256 of the tensor file that export writes, where it was checked out or
            exported, and given again.
    """

    tensors: Mapping[str, "torch.Tensor"] = field(repr=False)
    config: Mapping[str, object] = field(repr=False)
    config_bytes: bytes = field(repr=False)
    layout: Layout = field(repr=False)
    attachments: Mapping[str, bytes] = field(repr=False)
    source: Source
    source_digest: Digest
    raw_bytes: int
    original: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    remarks: tuple[str, ...] = ()
    ref: str | None = None
    error: float | None = None
    basis: Digest | None = None
    parent: str | None = None
    tensors_digest: Digest | None = None

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            if not isinstance(value := getattr(self, name), kind):
                hint = "Take an adapter that was read or checked out, and `replace` members of it."
                raise wrong_kind(name, value, _expected(kind), hint)

    @override
    def sheet(self) -> Sheet:
        facts = {
            "base": self.config.get("base_model_name_or_path"),
            "r": self.config.get("r"),
            "tensors": f"{len(self.tensors)}, {size(self.raw_bytes)}",
            "error": None if self.error is None else percent(self.error),
            "files": ", ".join(sorted(self.attachments)),
        }
        return Sheet(
            title=self.ref or self.source.location or "adapter",
            facts=tuple((name, str(value)) for name, value in facts.items() if value),
            notes=self.remarks,
            refs=(self.ref,) if self.ref else (),
        )

    @property
    def passengers(self) -> dict[str, "torch.Tensor"]:
        """The tensors that no factor pair names, in file order."""
        keys = [self.layout.tensors[position].key for position in self.layout.passengers]
        return {key: self.tensors[key] for key in keys}

    def state_dict(self) -> dict[str, "torch.Tensor"]:
        """Return the tensors under their PEFT keys, for PEFT's `set_peft_model_state_dict`."""
        return dict(self.tensors)

    def factor_pairs(self) -> list["FactorPair"]:
        """Return every module's factors in float64 with their scale, on the tensors' devices.

        They stand in the order of `layout.modules()`, and dW = scale * b.T @ a.
        """
        from share_registry.exchange.selection import module_scales
        from share_registry.exchange.tensors import pairs_of

        return pairs_of(self.layout, self.tensors, module_scales(self.config, self.layout))

    @kinds.takes(directory=kinds.path, overwrite=kinds.flag)
    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write a plain PEFT directory, atomically; the same files already there are success.

        Raises:
            RefusedError: something else is there.
            StoreError: the disk refuses.
        """
        from share_registry.exchange.export_files import CardFacts, files_of, place

        files, _ = files_of(self, profile="native", card=CardFacts.of(self))
        return place(files, Path(directory), "", overwrite=overwrite, outside=Outside())[0]

    @kinds.takes(name=kinds.text)
    def apply_to(self, model: Any, name: str | None = None) -> Any:
        """Load the adapter into a live model, strictly: every tensor must find its place.

        Args:
            model: A plain model, or a `peft.PeftModel` that gets one more adapter.
            name: The adapter's name in the model; "default" where None.

        Returns:
            The `peft.PeftModel`, with this adapter active.

        Raises:
            InvalidInputError: the name is taken, or the model does not have the modules.
            RefusedError: peft is not installed.
        """
        from share_registry.exchange.peft_model import apply

        return apply(self, model, name=name or "default")


def head_of(adapter: Adapter) -> Adapter:
    """Return what says what an adapter is, without what it holds."""
    return replace(adapter, tensors={}, attachments={}, original={})
