"""Bad basis objects, named by the clause that is broken."""

from collections.abc import Callable
from typing import Any

from spec.tiny import spread
from spec.writing import BasisDraft, basis_draft, binary


def files() -> dict[str, bytes]:
    """Return every bad file by name."""

    def made(change: Callable[[BasisDraft], object]) -> bytes:
        found = basis_draft(
            {"q": (spread("A", 2, 5, 40), spread("B", 1, 3, 40)), "v": ([[0] * 4], [])},
            {"q": (5, 3), "v": (4, 2)},
        )
        change(found)
        return found.to_bytes()

    def module(**members: Any) -> bytes:
        return made(lambda found: found.header["modules"][1].update(members))

    def listed(names: list[str]) -> bytes:
        return (
            basis_draft({}, {}).to_bytes()
            if not names
            else made(
                lambda found: [
                    m.update(module=n) for m, n in zip(found.header["modules"], names, strict=True)
                ]
            )
        )

    def huge(found: BasisDraft) -> None:
        found.header["modules"], found.ks = [{"module": "q", "in": 1 << 24, "out": 1}], [257, 0]
        found.groups_of_rows, found.packings, found.shifts, found.lengths, found.symbols = (
            [0] * 257,
            [],
            [],
            [],
            b"",
        )

    def no_rows(found: BasisDraft) -> None:
        found.ks = [2, 1, 0, 0]
        found.groups_of_rows.pop()

    plain = basis_draft({"q": ([[1]], [[1]])}, {"q": (1, 1)})
    large = basis_draft({"q": ([[1]], [])}, {"q": (1, 1)})
    large.packings, large.shifts, large.lengths, large.symbols = [0], [16], [1], bytes(17)
    cases = {
        "EVO-02-format-0": made(lambda found: found.header.update(format=0)),
        "EVO-02-format-2": made(lambda found: found.header.update(format=2)),
        "BAS-01-format-true": made(lambda found: found.header.update(format=True)),
        "BAS-01-kind": made(lambda found: found.header.update(kind="adapter")),
        "BAS-01-unknown-member": made(lambda found: found.header.update(layout="0" * 64)),
        "BAS-01-no-modules": listed([]),
        "BAS-01-name-empty": module(module=""),
        "BAS-01-name-519": module(module="v" * 519),
        "BAS-01-width-0": module(out=0),
        "BAS-01-width-over-2-to-the-24": module(out=(1 << 24) + 1),
        "BAS-01-member-of-a-module": module(rank=2),
        "BAS-02-order": listed(["v", "q"]),
        "BAS-02-twice": listed(["q", "q"]),
        "BAS-03-no-rows": made(no_rows),
        "BAS-06-numbers": made(huge),
        "OBJ-04-planes": binary(plain.header, {"planes": b"", "table": b"\0" + plain.table()}),
        "OBJ-05-planes": binary(
            plain.header, {"planes": b"", "symbols": plain.symbols, "table": b"\0" + plain.table()}
        ),
        "TAB-01-kind": plain.to_bytes(table=b"\2" + plain.table()),
        "TAB-06-no-such-group": made(
            lambda found: found.groups_of_rows.__setitem__(0, len(found.packings) + 1)
        ),
        "TAB-07-packing-8": made(lambda found: found.packings.__setitem__(0, 8)),
        "TAB-08-length-more": made(lambda found: found.lengths.append(0)),
        "TAB-09-cut-short": plain.to_bytes(table=b"\0" + plain.table()[:3]),
        "TAB-09-more-rows": made(lambda found: found.ks.__setitem__(0, 65_535)),
        "SYM-07-trailing": made(lambda found: setattr(found, "symbols", found.symbols + b"\0")),
        "SYM-08-2-to-the-23": large.to_bytes(),
    }
    return {f"{name}.basis.safetensors": content for name, content in cases.items()}
