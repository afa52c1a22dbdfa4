"""Key pairs of this run's own."""

from pathlib import Path
from typing import Any


def write_keys(folder: Path, name: str, curve: str = "SECP256R1") -> tuple[Path, Path]:
    """Write a private key and its public one, both PEM, and return where.

    ImportError without the extra [signing].
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return write_pair(folder, name, ec.generate_private_key(getattr(ec, curve)()), serialization)


def write_pair(folder: Path, name: str, key: Any, serialization: Any) -> tuple[Path, Path]:
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    pem = serialization.Encoding.PEM
    private.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public
