"""Keep the other files of an adapter directory: heads, tokenizers, cards.

They are kept verbatim up to a limit, never a pickle, never a link.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from share_registry.errors import InvalidInputError, ensure
from share_registry.exchange.config import CONFIG_FILE

TENSOR_FILE: Final = "adapter_model.safetensors"
# Lists the modules of a SentenceTransformer.
PIPELINE_FILE: Final = "modules.json"
README: Final = "README.md"
SOURCE_README: Final = "README.source.md"
CARD_MARK: Final = "<!-- written by share_registry -->"
MAX_ATTACHMENT_BYTES: Final = 64 << 20
MAX_ATTACHMENTS_BYTES: Final = 256 << 20
MAX_ATTACHMENTS: Final = 1024
MAX_NAME_BYTES: Final = 255

_PICKLES: Final = re.compile(
    r".*\.(bin|pt|pth|pkl|pickle|ckpt|joblib|npy|dill)|(optimizer|scheduler|rng_state)([._-].*)?",
    re.IGNORECASE,
)
_UNSAFE: Final = re.compile(
    r'.*[/\\:*?"<>|].*|[. ]*|.*[. ]|(con|prn|aux|nul|com\d|lpt\d)(\..*)?', re.IGNORECASE
)


def is_safe_name(name: str) -> bool:
    """Tell whether a file name is safe to write on any system."""
    # what is not Unicode is not printable
    size = len(name.encode(errors="surrogatepass"))
    return 1 <= size <= MAX_NAME_BYTES and name.isprintable() and _UNSAFE.fullmatch(name) is None


def check_name(name: str) -> str:
    """Return a file name that is safe to write on any system. Raises InvalidInputError."""
    ensure(
        is_safe_name(name),
        InvalidInputError(
            f"file name {name[:80]!r} is not safe on every system.",
            hint="Rename the file or move it out of the directory.",
        ),
    )
    return name


def check_names(names: Iterable[str]) -> None:
    """Check that names are safe and distinct without case. Raises InvalidInputError."""
    seen: dict[str, str] = {CONFIG_FILE: CONFIG_FILE, TENSOR_FILE: TENSOR_FILE}
    for name in names:
        first = seen.setdefault(check_name(name).casefold(), name)
        ensure(
            first == name,
            InvalidInputError(
                f"files {first!r} and {name!r} differ in case alone.", hint="Rename one of them."
            ),
        )


def is_pickle_name(name: str) -> bool:
    """Tell whether a file by this name may hold a pickle or training state, which is never kept."""
    return _PICKLES.fullmatch(name) is not None


def is_pickle(content: bytes) -> bool:
    """Tell whether bytes are a pickle, or an archive with one as torch writes it."""
    return (
        content[:1] == b"\x80" and content[1:2] in b"\x02\x03\x04\x05" and content.endswith(b".")
    ) or (content.startswith(b"PK\x03\x04") and b"data.pkl" in content)


def pipeline_folders(content: bytes) -> list[str]:
    """Return the sub-directories that a SentenceTransformer's list of modules names.

    Sub-directories are not kept, and without them such a list cannot be loaded.
    """
    try:
        modules = json.loads(content)
    except (ValueError, RecursionError):
        return []
    entries = modules if isinstance(modules, list) else []
    paths = [entry.get("path") for entry in entries if isinstance(entry, dict)]
    return [str(path)[:80] for path in paths if path]


def without_card(attachments: Mapping[str, bytes]) -> dict[str, bytes]:
    """Undo what an export did to the readme: our card goes, the source's gets its name back."""
    kept = dict(attachments)
    if CARD_MARK.encode() in kept.get(README, b""):
        del kept[README]
        if SOURCE_README in kept:
            kept[README] = kept.pop(SOURCE_README)
    return dict(sorted(kept.items()))
