"""Limits: both readers refuse what is just beyond each limit of chapter 11, not what is within.

They refuse before they take memory for it.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.format.canonical import load
from share_registry.names import Digest
from share_registry.outside.files import Outside
from share_registry.store.local import LocalStore
from spec.broken import MIB
from spec.tiny import layout_of, linear
from spec.writing import Side, canonical, draft, frame, safetensors, sha256
from tests.house.tree import ROOT
from tests.spec import readers
from tests.spec.readers import VECTORS, kind_of, reference

VECTORS_OF: dict[str, tuple[str, ...]] = {
    "LIM-03": ("JSN-06-depth",),
    "LIM-04": ("JSN-06-long-text",),
    "LIM-05": ("JSN-03-2-to-the-53",),
    "LIM-08": ("FRM-03-table-of-16-mib-and-1", "FRM-03-declares-more"),
    "LIM-09": ("FRM-04-window-just-over",),
    "LIM-11": ("LAY-01-9-dimensions", "LAY-01-size-over-2-to-the-40"),
    "LIM-12": ("LAY-01-key-513",),
    "LIM-13": ("LAY-09-modules", "LAY-09-bytes"),
    "LIM-14": ("ADP-01-65-sources", "ADP-01-513-external"),
    "LIM-15": ("TAB-04-65-terms",),
    "LIM-16": ("SYM-08-2-to-the-23",),
    "LIM-17": ("DEC-03-46-bits",),
    "LIM-18": ("DEC-09-chain-of-9",),
    "LIM-20": ("BAS-01-name-519", "BAS-01-width-over-2-to-the-24"),
    "LIM-21": ("BAS-06-numbers",),
    "LIM-22": ("REC-01-merge-1025-weights",),
    "LIM-23": ("DEC-13-coefficients",),
    "LIM-24": ("DEC-13-products",),
}
"""Limit -> bad vectors, which are refused by the tests of vectors."""


def _long_json(size: int) -> bytes:
    """Return canonical JSON of exactly this many bytes."""
    texts = ["x" * 65_000] * (size // 65_003)
    left = size - len(canonical({"a": texts})) - 3
    return canonical({"a": [*texts, "y" * left]})


def _many_tensors(count: int) -> bytes:
    return canonical(layout_of([(f"t{number}", "U8", [1]) for number in range(count)], []))


def _long_header(size: int) -> bytes:
    whole = safetensors(
        [("share_registry", "{}")],
        [(key, "U8", [0], b"") for key in ("planes", "symbols", "table")],
    )
    return size.to_bytes(8, "little") + whole[8:] + b" " * (size - len(whole) + 8)


def _much_for_little(symbols: int) -> bytes:
    """Return an object whose one row has this many symbols in one short frame."""
    adapter = draft(
        linear(width=symbols, out=1, rank=1),
        [(Side(own=[[0]], scales=[1.0]), Side(own=[[0]], scales=[1.0]))],
        {},
    )
    piece = frame(0, 4 * MIB)
    adapter.groups_of_rows, adapter.packings, adapter.shifts = [1, 0], [1], [0]
    adapter.lengths, adapter.symbols = [len(piece)] * -(-symbols // (20 * MIB)), piece
    return adapter.to_bytes()


MAKERS: dict[str, tuple[Callable[[int], bytes], int, str, str]] = {
    "LIM-01": (_long_json, MIB, "format.json", "JSN-06"),
    "LIM-02": (_long_json, 16 * MIB, "record.json", "JSN-06"),
    "LIM-07": (_long_header, 16 * MIB, "adapter.safetensors", "OBJ-04"),
    "LIM-10": (_many_tensors, 65_536, "layout.json", "LAY-01"),
}
"""Limit -> maker of content by size, largest size, kind of content, clause that more breaks."""


def test_every_limit_has_a_vector() -> None:
    listed = re.findall(
        r"^\| (LIM-\d\d) \|",
        (ROOT / "spec" / "11-limits.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert sorted({*VECTORS_OF, *MAKERS, "LIM-06", "LIM-19"}) == listed


@pytest.mark.parametrize("limit", sorted(VECTORS_OF))
def test_the_vectors_of_a_limit_are_there(limit: str) -> None:
    assert all(list((VECTORS / "bad").glob(f"{name}.*")) for name in VECTORS_OF[limit])


@pytest.mark.parametrize("limit", sorted(MAKERS))
def test_both_readers_refuse_what_is_one_beyond_a_limit(limit: str) -> None:
    make, size, kind, clause = MAKERS[limit]
    content = make(size + 1)
    with pytest.raises((sr.IntegrityError, sr.FormatError)):
        readers.read_by_library(content, kind)
    with pytest.raises(reference.DamagedError, match=f"^{clause}: "):
        readers.read_by_reference(content, kind)


@pytest.mark.parametrize("limit", sorted(MAKERS))
def test_no_reader_is_stricter_than_a_limit(limit: str) -> None:
    """What is of just the size is refused for another reason or not at all."""
    make, size, kind, clause = MAKERS[limit]
    assert not reason_of_refusal(make(size), kind).startswith(clause)


def reason_of_refusal(content: bytes, kind: str) -> str:
    """Return why the reference reader refuses, nothing where it does not."""
    try:
        readers.read_by_reference(content, kind)
    except reference.DamagedError as damaged:
        return str(damaged)
    return ""


def test_json_within_its_limits_is_read_by_both() -> None:
    content = b'{"a":' + b"[" * 15 + b'"' + b"x" * 65_536 + b'",9007199254740991' + b"]" * 15 + b"}"
    assert load(content, subject="vector")
    assert reference.canonical(load(content, subject="vector")).encode() == content


def test_an_object_over_4_gib_is_not_even_read(tmp_path: Path) -> None:
    """LIM-06, spec STO-08: by a file with a hole, which takes no room."""
    root = readers.unpack(VECTORS / "good" / "history", tmp_path / "store")
    digest = Digest("ab" * 32)
    path = root / "objects" / digest[:2] / digest[2:]
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        os.truncate(file.fileno(), (4 << 30) + 1)
    with pytest.raises(sr.IntegrityError):
        LocalStore(root, Outside()).get(digest)
    with pytest.raises(reference.DamagedError, match=r"^STO-08: "):
        reference.Store(root).get(digest)


def test_symbols_that_no_frame_could_hold_are_refused_unexpanded() -> None:
    """LIM-19, spec SYM-09: more symbols than the bytes could expand to."""
    width = 200 * MIB
    layout = linear(width=width, out=1, rank=1)
    content = _much_for_little(width)

    def get(digest: str, limit: int = 0) -> bytes:
        return canonical(layout)

    from share_registry.format.adapter_object import decode
    from share_registry.format.layout import Layout

    with pytest.raises(sr.IntegrityError):
        decode(content, Layout.from_bytes(canonical(layout)))
    with pytest.raises(reference.DamagedError, match=r"^SYM-09: "):
        reference.parse_adapter(content, get)


def test_a_link_is_no_object(tmp_path: Path) -> None:
    """What is behind a link is not looked at (spec STO-02, STO-08)."""
    root = readers.unpack(VECTORS / "good" / "history", tmp_path / "store")
    content = b"somewhere else"
    digest = Digest(sha256(content))
    (tmp_path / "outside").write_bytes(content)
    path = root / "objects" / digest[:2] / digest[2:]
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(sr.IntegrityError):
        LocalStore(root, Outside()).get(digest)
    with pytest.raises(reference.DamagedError, match=r"^STO-08: "):
        reference.Store(root).get(digest)


def test_bad_vectors_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in (VECTORS / "bad").iterdir()}
    assert [name for name, size in sizes.items() if size > 256 << 10] == []
    assert {kind_of(path) for path in (VECTORS / "bad").iterdir()} >= {
        "json",
        "record.json",
        "layout.json",
        "adapter.safetensors",
        "store.zip",
    }
