"""What a commit says of its cost: the report of an adapter, and of a basis.

Values like those of `results`.
"""

from dataclasses import dataclass

from share_registry.names import Digest
from share_registry.values.shown import html as _html


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleReport:
    """One factor as stored.

    Attributes:
        module: Module path as in the adapter's keys.
        side: "a" or "b".
        reference: What the own rows are coded against: "none", "previous", "rows of c2, c5", or
            "lossless".
        rank: Rows of the factor.
        bits_per_parameter: Coded bits of own rows, coefficients and scales over r * width (an
            entropy estimate: frames are shared by factors of like statistics).
        error: Relative error of the module's dW (the same for both sides).
        bytes: Coded bytes, estimated alike.
    """

    module: str
    side: str
    reference: str
    rank: int
    bits_per_parameter: float
    error: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterReport:
    """What a commit did to one adapter.

    Attributes:
        error: Pooled relative Frobenius error of scaled dW of the adapter exactly as native export
            gives it back, or an upper bound of it.
        budget: The largest error allowed; 0 is lossless, None no limit.
        bytes_added: Bytes of new objects in the store.
        raw_bytes: Bytes of the adapter's tensor file.
        modules: Per module and side; empty in a log.
        notes: What was not kept or is worth knowing.
        bound: Whether `error` is an upper bound: a refit of a task whose source is not kept.
        before: The error of the version before, where a refit made this one.
        bits_per_parameter, bits_bound: Of all modules, and what Gaussian rows need at least for
            that error without references; None in a log.
    """

    error: float
    budget: float | None
    bytes_added: int
    raw_bytes: int
    modules: tuple[ModuleReport, ...] = ()
    bits_per_parameter: float | None = None
    bits_bound: float | None = None
    notes: tuple[str, ...] = ()
    bound: bool = False
    before: float | None = None

    _repr_html_ = _html

    def __str__(self) -> str:
        from share_registry.values.render import summary

        return summary(self)

    def __repr__(self) -> str:
        return f"<Report {self}>"

    @property
    def worst_module(self) -> ModuleReport | None:
        """The module of the largest error, None where modules are not listed."""
        return max(self.modules, key=lambda module: module.error, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BasisModuleReport:
    """The directions of one module.

    Attributes:
        module: Module path as in the adapters' keys.
        k_a, k_b: Directions of either side.
        captured_a, captured_b: Share of the tasks' energy in them; None where the basis was not
            fitted just now.
    """

    module: str
    k_a: int
    k_b: int
    captured_a: float | None = None
    captured_b: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BasisReport:
    """A basis that a commit brought.

    Attributes:
        digest: Its object.
        size_bytes: Bytes of the object; None where it is not in the store.
        modules: Its directions; empty in a log.
    """

    digest: Digest
    size_bytes: int | None
    modules: tuple[BasisModuleReport, ...] = ()
