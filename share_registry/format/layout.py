"""Layout: which tensors an adapter has, in file order, and which of them are factor pairs.

A layout is an object of its own (canonical JSON), shared by every adapter of one shape, so that a
commit carries only its digest (spec LAY-01 to LAY-09).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import prod
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from share_registry.errors import FormatError, IntegrityError, ensure
from share_registry.format.canonical import Json, dump, load, require

FORMAT_VERSION: Final = 1
MAX_TENSORS: Final = 65_536
MAX_DIMENSIONS: Final = 8
MAX_MODULES: Final = 65_536
# Of all tensors together. What a reader may have to take memory for, however small the objects
# are.
MAX_ADAPTER_BYTES: Final = 16 << 30


_Model = TypeVar("_Model")


class DType(StrEnum):
    """Element types, by their safetensors names."""

    F64 = "F64"
    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    I64 = "I64"
    I32 = "I32"
    I16 = "I16"
    I8 = "I8"
    U8 = "U8"
    BOOL = "BOOL"

    @property
    def size_bytes(self) -> int:
        """Bytes of one element."""
        return _SIZES[self]


_SIZES: Final = {
    DType.F64: 8,
    DType.F32: 4,
    DType.F16: 2,
    DType.BF16: 2,
    DType.I64: 8,
    DType.I32: 4,
    DType.I16: 2,
    DType.I8: 1,
    DType.U8: 1,
    DType.BOOL: 1,
}


FLOATS: Final = frozenset({DType.F64, DType.F32, DType.F16, DType.BF16})


class Form(StrEnum):
    """How a factor pair lies in its two tensors."""

    # A (r, in), B (out, r); also HF Conv1D
    LINEAR = "linear"
    # lora_embedding_A (r, vocab), lora_embedding_B (dim, r)
    EMBEDDING = "embedding"
    # A (r, in, k...), B (out, r, 1...)
    CONV = "conv"
    # A (r*E, in) expert-major rows, B (out, r*E) rank-major columns
    EXPERTS = "experts"


class Strict(BaseModel):
    """Base of everything that is read from bytes: strict, closed, frozen."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    def to_bytes(self) -> bytes:
        """Return the canonical bytes; their sha256 names the object or commit."""
        return dump(self.model_dump(mode="json", exclude_none=True))


class Entry(Strict):
    """A name and a value; names from users never become JSON member names."""

    name: Annotated[str, Field(max_length=512)]
    value: str


class TensorSpec(Strict):
    """One tensor of the adapter file."""

    key: Annotated[str, Field(min_length=1, max_length=512)]
    dtype: Annotated[DType, Field(strict=False)]
    shape: Annotated[
        list[Annotated[int, Field(ge=0, le=1 << 40)]], Field(max_length=MAX_DIMENSIONS)
    ]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor."""
        return self.elements * self.dtype.size_bytes


class FactorSpec(Strict):
    """One factor pair: the tensors of A and B by position in `Layout.tensors`.

    One module, or `experts` of them.
    """

    module: Annotated[str, Field(min_length=1, max_length=512)]
    form: Annotated[Form, Field(strict=False)]
    a: Annotated[int, Field(ge=0, lt=MAX_TENSORS)]
    b: Annotated[int, Field(ge=0, lt=MAX_TENSORS)]
    experts: Annotated[int, Field(ge=1, le=MAX_TENSORS)] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleShape:
    """One module as the algebra sees it: dW is (out, in) of rank at most r."""

    module: str
    rank: int
    out: int
    in_: int


class Layout(Strict):
    """The tensors of an adapter file in file order, and its factor pairs sorted by module.

    Tensors that no factor names are passengers.
    """

    format: Literal[1] = 1
    kind: Literal["layout"] = "layout"
    metadata: list[Entry]
    tensors: Annotated[list[TensorSpec], Field(max_length=MAX_TENSORS)]
    factors: Annotated[list[FactorSpec], Field(max_length=MAX_TENSORS)]

    @classmethod
    def from_bytes(cls, content: bytes) -> "Layout":
        """Parse and check a layout object. Raises IntegrityError."""
        value = check_kind(load(content, subject="layout"), "layout")
        layout = validate(cls.model_validate, value, "layout")
        layout.check()
        return layout

    def check(self) -> None:
        """Check what the types cannot say (spec LAY-05 to LAY-09). Raises IntegrityError."""
        keys = [tensor.key for tensor in self.tensors]
        entries = [entry.name for entry in self.metadata]
        require(
            len({*keys, "__metadata__"}) == len(keys) + 1 and len(set(entries)) == len(entries),
            "layout names a tensor or a metadata entry twice, "
            "or a tensor as the metadata is named.",
        )
        used = [index for factor in self.factors for index in (factor.a, factor.b)]
        require(
            len(set(used)) == len(used) and all(index < len(keys) for index in used),
            "layout uses a tensor for two factors, or one that is not there.",
        )
        names = [factor.module for factor in self.factors]
        require(
            names == sorted(set(names)), "layout factors are not sorted by distinct module names."
        )
        for factor in self.factors:
            _check_pair(factor, self.tensors[factor.a], self.tensors[factor.b])
        modules = sum(factor.experts for factor in self.factors)
        size = sum(tensor.size_bytes for tensor in self.tensors)
        require(
            modules <= MAX_MODULES and size <= MAX_ADAPTER_BYTES,
            f"layout has {modules} modules and {size} bytes of tensors, "
            f"at most {MAX_MODULES} and {MAX_ADAPTER_BYTES} are allowed.",
        )
        # only an expert's name, `name#e`, can be that of another module
        require(
            not any("#" in name for name in names)
            or len({shape.module for shape in self.modules()}) == modules,
            "layout has a module that is called like an expert of another.",
        )

    @property
    def passengers(self) -> list[int]:
        """Positions of the tensors that no factor names, ascending."""
        used = {index for factor in self.factors for index in (factor.a, factor.b)}
        return sorted(set(range(len(self.tensors))) - used)

    def modules(self) -> list[ModuleShape]:
        """Return the modules in stored order.

        Factors by name, experts of a factor ascending as `name#e`.
        """
        return [*self._modules]

    def __copy__(self) -> "Layout":
        # a copy may be changed, as by model_copy
        copied = super().__copy__()
        vars(copied).pop("_modules", None)
        return copied

    @cached_property
    def _modules(self) -> tuple[ModuleShape, ...]:
        return tuple(shape for factor in self.factors for shape in self.modules_of(factor))

    def modules_of(self, factor: FactorSpec) -> list[ModuleShape]:
        """Return the modules of one factor pair."""
        a, b = self.tensors[factor.a], self.tensors[factor.b]
        rank, width = a.shape[0] // factor.experts, a.elements // a.shape[0]
        names = (
            [f"{factor.module}#{e}" for e in range(factor.experts)]
            if factor.form is Form.EXPERTS
            else [factor.module]
        )
        return [ModuleShape(module=name, rank=rank, out=b.shape[0], in_=width) for name in names]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlikeShape:
    """A module in another shape than the first of its name in a space.

    Attributes:
        module: Its name.
        form: How its pair lies.
        shape: (out, in, experts).
        first: The same of the first.
    """

    module: str
    form: Form
    shape: tuple[int, int, int]
    first: tuple[int, int, int]

    @property
    def may_be_same(self) -> bool:
        """Whether it may be the same module: a table, a head or turned experts (spec REC-15)."""
        (out, width, experts), (first_out, first_width, first_experts) = self.shape, self.first
        fits = {
            Form.EMBEDDING: out == first_out,
            Form.LINEAR: width == first_width,
            Form.EXPERTS: (out, width) == (first_width, first_out),
        }
        return experts == first_experts and fits.get(self.form, False)


def learn_shapes(layout: Layout, shapes: dict[str, tuple[int, int, int]]) -> list[UnlikeShape]:
    """Add (out, in, experts) of the modules that are new to a space, and return the unlike ones."""
    unlike = []
    for factor in layout.factors:
        a, b = layout.tensors[factor.a], layout.tensors[factor.b]
        shape = b.shape[0], a.elements // a.shape[0], factor.experts
        first = shapes.setdefault(factor.module, shape)
        if first != shape:
            unlike.append(
                UnlikeShape(module=factor.module, form=factor.form, shape=shape, first=first)
            )
    return unlike


def check_version(value: dict[str, Json], subject: str, *, member: str = "format") -> None:
    """Check that an object is of this format version (spec EVO-02).

    Raises:
        IntegrityError: it names no version.
        FormatError: it is of another.
    """
    version = value.get(member)
    # `true` is equal to 1
    require(type(version) is int, f"{subject} says no format version, expected {FORMAT_VERSION}.")
    ensure(
        version == FORMAT_VERSION,
        FormatError(
            f"{subject} has format {version!r}, this release reads {FORMAT_VERSION}.",
            hint="Upgrade share_registry.",
        ),
    )


def check_kind(value: dict[str, Json], kind: str) -> dict[str, Json]:
    """Return an object after checking its format version and kind (spec EVO-02).

    Raises:
        IntegrityError: it is of another kind, or names no version.
        FormatError: it is of another version.
    """
    check_version(value, kind)
    require(value.get("kind") == kind, f"{kind} is of kind {value.get('kind')!r}.")
    return value


def validate(model: Callable[[object], _Model], value: object, subject: str) -> _Model:
    """Return what a model makes of a value of JSON. Raises IntegrityError."""
    try:
        return model(value)
    except ValidationError as error:
        raise IntegrityError(f"{subject} is malformed: {first_error(error)}") from error


def first_error(error: ValidationError) -> str:
    """Return the place and the message of the first fault that pydantic found."""
    item = error.errors()[0]
    return f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"


def _check_pair(factor: FactorSpec, a: TensorSpec, b: TensorSpec) -> None:
    is_fitting = (
        a.dtype in FLOATS
        and b.dtype in FLOATS
        and len(a.shape) >= 2
        and len(b.shape) >= 2
        and min(a.shape) >= 1
        and min(b.shape) >= 1
        and a.shape[0] == b.shape[1]
        and a.shape[0] % factor.experts == 0
        and (factor.experts == 1 or factor.form is Form.EXPERTS)
        and (factor.form is Form.CONV or len(a.shape) == len(b.shape) == 2)
        and all(size == 1 for size in b.shape[2:])
    )
    if not is_fitting:
        raise IntegrityError(
            f"layout factor {factor.module!r} has unfitting tensors "
            f"{a.dtype} {a.shape} and {b.dtype} {b.shape}."
        )
