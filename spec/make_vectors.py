"""Write `vectors/`.

Deterministic, made by the second writer, no library and no compressor involved.
"""

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Final

from spec import (
    broken,
    broken_bases,
    broken_floats,
    broken_stores,
    good,
    large,
    recipes,
    references,
)
from spec.states import state_of

FOLDER: Final = Path(__file__).parent / "vectors"


def vectors() -> dict[str, bytes]:
    """Return every file of the vectors by its path below the folder."""
    found = {f"good/{name}": content for name, content in good.objects().items()}
    found["good/references.json"] = (json.dumps(references.meanings(), indent=1) + "\n").encode()
    state_by_store = {name: state_of(files) for name, files in good.stores().items()}
    found["good/states.json"] = (
        json.dumps(state_by_store, indent=1, sort_keys=True) + "\n"
    ).encode()
    found["good/canonical.json"] = (json.dumps(good.CANONICAL, indent=1) + "\n").encode()
    found["bad/references.json"] = (
        json.dumps(references.meanings_before_a_later_release(), indent=1) + "\n"
    ).encode()
    found["good/recipes.json"] = (json.dumps(recipes.within(), indent=1) + "\n").encode()
    found["bad/recipes.json"] = (
        json.dumps(recipes.beyond() | recipes.stores(), indent=1) + "\n"
    ).encode()
    files = broken.files() | broken_bases.files() | broken_floats.files()
    found |= {f"bad/{name}": content for name, content in files.items()}
    found |= {
        f"good/{name}/{path}": content
        for name, files in good.stores().items()
        for path, content in files.items()
    }
    found |= {
        f"bad/{name}.store.zip": archive(files)
        for name, files in (broken_stores.stores() | large.stores()).items()
    }
    return found


def archive(files: dict[str, bytes]) -> bytes:
    """Return files as a zip archive, stored as they are."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as target:
        for path, content in sorted(files.items()):
            target.writestr(zipfile.ZipInfo(path), content)
    return made.getvalue()


def write() -> None:
    """Write every vector, and remove those that are gone."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name, content in vectors().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
