"""Keep inputs that coverage was looked for with: `python -m tests.fuzz.keep FOLDER`.

The folder has one for each parser, with the files that `tests.fuzz.guided` left in it.
"""

import sys
import zipfile
from pathlib import Path
from typing import Final

KEPT: Final = Path(__file__).parent / "kept.zip"
LONGEST: Final = 2048
"""Longer inputs reach no more, and repository and runs stay small."""
_TIME: Final = (2026, 1, 1, 0, 0, 0)


def kept_inputs() -> dict[str, list[bytes]]:
    """Return the inputs that are kept, by parser."""
    inputs: dict[str, list[bytes]] = {}
    with zipfile.ZipFile(KEPT) as archive:
        for name in archive.namelist():
            inputs.setdefault(name.partition("/")[0], []).append(archive.read(name))
    return inputs


def main() -> None:
    """Add the inputs of a folder."""
    inputs = kept_inputs() if KEPT.exists() else {}
    for folder in Path(sys.argv[1]).iterdir():
        files = (path for path in folder.iterdir() if not path.name.startswith("first-"))
        contents = {path.read_bytes() for path in files if path.stat().st_size <= LONGEST}
        inputs[folder.name] = sorted(contents.union(inputs.get(folder.name, [])))
    with zipfile.ZipFile(KEPT, "w", zipfile.ZIP_DEFLATED) as archive:
        for parser, kept in sorted(inputs.items()):
            for number, content in enumerate(kept):
                archive.writestr(
                    zipfile.ZipInfo(f"{parser}/{number}", _TIME), content, zipfile.ZIP_DEFLATED
                )


if __name__ == "__main__":
    main()
