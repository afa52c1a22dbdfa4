"""Reference reader of share_registry stores, format version 1: a module for each chapter.

Standard library, numpy, zstandard and the schemas beside it. For clarity, not for speed.

Checks a space's log, decodes any version and writes its configuration and its tensors byte for
byte; a refusal names the broken clause of the specification. From the folder above `spec`:

    python -m spec.reader STORE --list
    python -m spec.reader STORE SPACE/TASK@vN OUT
"""

from spec.reader.canonical import MAX_FORMAT, MAX_JSON, canonical, parse
from spec.reader.decoding import decode, decode_side
from spec.reader.exports import digest_of, export, tensor_file
from spec.reader.layout import parse_layout
from spec.reader.objects import parse_adapter, parse_basis, parse_tensor
from spec.reader.refusals import DamagedError, LargeError, NewerError, RemovedError
from spec.reader.store import Store

__all__ = [
    "MAX_FORMAT",
    "MAX_JSON",
    "DamagedError",
    "LargeError",
    "NewerError",
    "RemovedError",
    "Store",
    "canonical",
    "decode",
    "decode_side",
    "digest_of",
    "export",
    "parse",
    "parse_adapter",
    "parse_basis",
    "parse_layout",
    "parse_tensor",
    "tensor_file",
]
