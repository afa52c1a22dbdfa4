"""Bad vectors of floats kept as heads and tails, each a file, named by the clause that is broken."""

from collections.abc import Callable
from typing import Any

from spec.good_floats import GROUPS_OF_MIXED, kept_of_mixed, mixed
from spec.tiny import Tiny
from spec.writing import (
    Draft,
    Floats,
    binary,
    draft,
    float_streams,
    sha256,
    split_tensor_object,
    with_groups,
)

TENSOR_BYTES = bytes(range(24))
"""The bad tensor objects stand for six F32 elements."""
BASE = 500


def files() -> dict[str, bytes]:
    """Return every bad file by name."""
    return {**_adapters(), **_tensors()}


def not_said(tiny: Tiny, entry: dict[str, Any]) -> None:
    """Name a tensor object whose floats are split without saying so."""
    layout = mixed()
    external = {7: bytes(18)}
    entry = tiny.adapter(
        "mnli",
        1,
        layout,
        [],
        kept=kept_of_mixed(),
        external=external,
        groups=GROUPS_OF_MIXED,
        change=_unsaid,
    )
    tiny.absorb(entry, requires=["float-heads"])


def _unsaid(made: Draft) -> None:
    """Write the tensors kept in the object as planes, and leave the external one."""
    plain = draft(mixed(), [], kept_of_mixed())
    made.planes, made.lengths, made.floats = plain.planes, plain.lengths, None
    del made.header["heads"]


def _adapters() -> dict[str, bytes]:
    cases: dict[str, Callable[[Draft], object]] = {
        "ADP-01-heads-false": lambda made: made.header.update(heads=False),
        "TAB-09-no-columns-of-floats": _without_columns,
        "TAB-10-group-that-is-not-there": lambda made: _floats(made).groups.__setitem__(0, 4),
        "TAB-10-group-of-no-tensor": _with_group_of_nothing,
        "TAB-10-two-types": lambda made: _floats(made).groups.__setitem__(4, 1),
        "TAB-10-integers": _with_integers,
        "TAB-10-base": lambda made: _floats(made).bases.__setitem__(0, 4096),
        "TAB-10-base-of-f16": lambda made: _floats(made).bases.__setitem__(2, 256),
        "FRM-11-more-escapes-than-numbers": lambda made: _floats(made).escapes.__setitem__(
            0, (1 << 40) - 1
        ),
        "FRM-11-escape-that-no-code-has": lambda made: _with_codes(made, bytes(5)),
        "FRM-11-code-without-escape": lambda made: _with_codes(made, b"\0\xff\xff\0\0"),
        "FRM-11-escape-that-is-no-head": lambda made: _with_codes(made, b"\0\0\xff\0\0", b"\0\x10"),
        "FRM-08-floats-trailing": lambda made: setattr(made, "planes", made.planes + b"\0"),
    }
    return {
        f"{name}.adapter.safetensors": _changed(change).to_bytes() for name, change in cases.items()
    }


def _changed(change: Callable[[Draft], object]) -> Draft:
    kept, outside = kept_of_mixed(), {7: sha256(b"")}
    made = draft(mixed(), [], kept, external=outside)
    change(with_groups(made, mixed(), kept, GROUPS_OF_MIXED))
    return made


def _floats(made: Draft) -> Floats:
    assert made.floats is not None
    return made.floats


def _without_columns(made: Draft) -> None:
    made.floats, made.lengths = None, []


def _with_group_of_nothing(made: Draft) -> None:
    _floats(made).escapes.append(0)


def _with_integers(made: Draft) -> None:
    """Say of a tensor of integers, and of no other, that it is group 4."""
    floats = _floats(made)
    floats.groups[1] = 4
    floats.bases.insert(1, 0)
    floats.escapes.append(0)


def _with_codes(made: Draft, codes: bytes, escapes: bytes = b"\0\0") -> None:
    """Put other codes, and one escape, in the place of those of group 1."""
    kept = kept_of_mixed()
    before = sum(len(kept[index]) for index in (1, 3))
    streams = float_streams([kept[2], b""], [1900, 0], "BF16")
    size = len(streams[0]) + len(streams[1])
    made.planes = made.planes[:before] + codes + escapes + made.planes[before + size :]
    # twelve planes of the two that are not split come first
    at = 12 + 1
    had = 1 if streams[1] else 0
    made.lengths[at : at + had] = [len(escapes)]
    _floats(made).escapes[0] = len(escapes) // 2


def _tensors() -> dict[str, bytes]:
    streams = float_streams([TENSOR_BYTES], [BASE], "F32")
    described = {"format": 1, "kind": "tensor", "size": 24, "width": 4}
    heads = {"dtype": "F32", "base": BASE, "escapes": len(streams[1]) // 2}

    def tensor(**members: Any) -> bytes:
        return split_tensor_object(TENSOR_BYTES, "F32", BASE, members)

    cases = {
        "TEN-01-unknown-member-of-heads": tensor(extra=1),
        "TEN-01-heads-of-f64": tensor(dtype="F64"),
        "TEN-05-type": tensor(dtype="BF16"),
        "TEN-05-more-escapes-than-numbers": tensor(escapes=7),
        "TEN-03-heads-length-missing": binary(
            described | {"heads": heads}, {"planes": b"".join(streams), "table": bytes(3)}
        ),
        "TEN-01-base-of-4096": tensor(base=4096),
        "FRM-11-escapes-of-a-tensor": _other_codes(described, heads, streams),
    }
    return {f"{name}.tensor.safetensors": content for name, content in cases.items()}


def _other_codes(described: dict[str, Any], heads: dict[str, Any], streams: list[bytes]) -> bytes:
    """Return a tensor object of which every code asks for an escape, and too few are there."""
    parts = [b"\xff" * 6, b"\0\0" * 3, *streams[2:]]
    table = b"".join(len(part).to_bytes(3, "little") for part in parts)
    return binary(
        described | {"heads": heads | {"escapes": 3}}, {"planes": b"".join(parts), "table": table}
    )
