"""Signatures of exports and checkpoints, made and checked by OpenSSF model-signing.

A signature is a Sigstore bundle in a file of its own. It names every file that it is of with its
sha256, so that a file that was changed, added or removed is seen. That a bundle is whole says
little: whoever checks one says whose it must be, by a public key, or by an identity and the issuer
that vouches for it. The bundles are those of the command `model_signing`, which makes and checks
them too.
"""

import base64
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from share_registry import kinds
from share_registry.errors import (
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
    StoreError,
    ensure,
)
from share_registry.exchange.directory_digest import directory_digest
from share_registry.format.canonical import parse_foreign, sha256
from share_registry.kinds import FilePath
from share_registry.names import Digest, first_and_more
from share_registry.outside.files import Kind, Outside
from share_registry.values.checks import SignedExport

# Signs with an identity instead of a key
KEYLESS: Final = "sigstore"
_SUFFIX: Final = ".sig"
_MOST_BYTES: Final = 16 << 20
_MOST_NAMES: Final = 8
# How what model-signing says begins where files differ
_MISMATCH: Final = "Signature mismatch"
# How model-signing calls a subject that is one file
_ITSELF: Final = "."
_MAKE_KEYS: Final = (
    "Make a pair with `openssl ecparam -name prime256v1 -genkey -noout -out key.pem` and "
    "`openssl ec -in key.pem -pubout -out key.pub`; sign with key.pem, check with key.pub."
)
_SAY_WHOSE: Final = (
    "Give key=..., the file of a public key; or identity=... and issuer=... of who signed with "
    "Sigstore."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signatory:
    """Whose signature counts: who has the private key of a public one, or an identity.

    Attributes:
        key: File of the public key, PEM.
        identity: Who signed with Sigstore: a mail address, or the URL of a CI workflow.
        issuer: URL of the OpenID Connect issuer that vouches for the identity.
    """

    key: Path | None = None
    identity: str | None = None
    issuer: str | None = None

    @classmethod
    def of(cls, key: FilePath | None, identity: str | None, issuer: str | None) -> Self | None:
        """Return who is meant, None for nobody. Raises InvalidInputError for half an answer."""
        if key is None and identity is None and issuer is None:
            return None
        by_identity = bool(identity) and bool(issuer) and key is None
        by_key = key is not None and identity is None and issuer is None
        ensure(
            by_key or by_identity,
            InvalidInputError(
                "a signature is checked against a key, or an identity with its issuer, not "
                "against parts of both.",
                hint=_SAY_WHOSE,
            ),
        )
        return cls(key=None if key is None else Path(key), identity=identity, issuer=issuer)

    def __str__(self) -> str:
        return f"key {self.key}" if self.key else f"{self.identity} ({self.issuer})"


@dataclass(frozen=True, slots=True)
class Signer:
    """What signs: a private key or, with Sigstore, who this process runs as."""

    _config: Any
    _outside: Outside

    @classmethod
    def open(cls, sign: FilePath, outside: Outside) -> Self:
        """Load a key, or prepare to sign with Sigstore.

        Args:
            sign: File of a private key, PEM, of the curve P-256, P-384 or P-521; or "sigstore".
            outside: The file system.

        Raises:
            RefusedError: model-signing is not installed.
            NotFoundError, InvalidInputError: there is no such key, or it cannot sign.
            StoreError: Sigstore cannot be reached.
        """
        config = _tool().signing.Config().set_hashing_config(_every_file())
        if os.fspath(sign) == KEYLESS:
            try:
                return cls(config.use_sigstore_signer(use_ambient_credentials=True), outside)
            # of a dozen packages below, each with errors of its own
            except Exception as error:
                raise _unreachable(error) from error
        key = _key_file(Path(sign), outside)
        try:
            return cls(config.use_elliptic_key_signer(private_key=key), outside)
        except OSError as error:
            raise _unreadable(key, error) from error
        except Exception as error:
            raise InvalidInputError(
                f"{key} is no private key that can sign: {_reason(error)}",
                hint=f"It must be a PEM of an elliptic curve, without a password. {_MAKE_KEYS}",
            ) from error

    def sign(self, subject: Path, digests: Mapping[str, Digest]) -> bytes:
        """Sign a directory, or one file whose name in `digests` is ".".

        Args:
            subject: What is signed, as it is on the disk.
            digests: What it must hold: somebody else may have written there meanwhile.

        Returns:
            The bundle.

        Raises:
            IntegrityError: it holds something else; nothing was signed for anybody to see.
            StoreError: it cannot be read, or Sigstore refuses.
        """
        with _scratch(self._outside) as folder:
            target = folder / f"new{_SUFFIX}"
            try:
                self._config.sign(subject, target)
            except Exception as error:
                raise StoreError(
                    f"{subject} could not be signed: {_reason(error)}", hint="Sign it again."
                ) from error
            bundle = self._outside.read(target, limit=_MOST_BYTES)
        ensure(
            Bundle.of(bundle).digests == digests,
            IntegrityError(
                f"{subject} was changed by somebody else while it was signed.",
                hint="Sign it again where nobody else writes.",
            ),
        )
        return bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a signature says: not whether it is right.

    Attributes:
        keyless: Whether it was made with Sigstore, by an identity.
        digests: The files that it is of.
        ignored: What it leaves out: files, or directories with all that is below.
    """

    keyless: bool
    digests: Mapping[str, Digest]
    ignored: tuple[str, ...] = ()

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Read a bundle. Raises IntegrityError where it is none."""
        try:
            bundle = _members(content, "signature")
            envelope: Any = bundle["dsseEnvelope"]
            material: Any = bundle["verificationMaterial"]
            statement = _members(base64.b64decode(envelope["payload"], validate=True), "payload")
            predicate: Any = statement["predicate"]
            method = predicate["serialization"]["method"], predicate["serialization"]["hash_type"]
            digests = {
                str(resource["name"]): Digest(str(resource["digest"]))
                for resource in predicate["resources"]
            }
            ignored = tuple(map(str, predicate["serialization"].get("ignore_paths", ())))
            keyless = "publicKey" not in material
            hint = keyless or material["publicKey"]["hint"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IntegrityError(
                f"the signature is no bundle of model-signing 1.0 or newer: {_reason(error)}",
                hint="Sign it again.",
            ) from error
        # of another method the files could not be compared with what was written, and of a key
        # without its digest the tool would print a warning of its own
        ensure(
            method == ("files", "sha256") and hint,
            RefusedError(
                f"the signature is by {' of '.join(map(str, method))}, expected sha256 of files "
                "and the digest of the key.",
                hint="Sign again with model-signing 1.1 or newer and its own choice of digests.",
            ),
        )
        return cls(keyless=keyless, digests=digests, ignored=ignored)


def check_signature(
    subject: Path, bundle: bytes, signatory: Signatory, outside: Outside, *, name: str = ""
) -> dict[str, Digest]:
    """Check that a directory or a file is what somebody signed, no file more and none less.

    Args:
        subject: The directory or file.
        bundle: Its signature.
        signatory: Whose it must be.
        outside: The file system.
        name: How messages name the subject.

    Returns:
        The files with their digests.

    Raises:
        IntegrityError: it is not, or the signature is somebody else's.
        RefusedError: model-signing is not installed; the signature cannot be checked here.
        InvalidInputError, NotFoundError: the key is none, or not there.
        StoreError: Sigstore's keys cannot be fetched.
    """
    tool = _tool()
    name = name or str(subject)
    signed = Bundle.of(bundle)
    ensure(
        signed.keyless == (signatory.key is None),
        IntegrityError(
            f"{name} is signed with {'Sigstore' if signed.keyless else 'a key'}, expected "
            f"a signature of {signatory}.",
            hint=_SAY_WHOSE,
        ),
    )
    config = _configured(tool.verifying.Config(), signatory, outside)
    with _scratch(outside) as folder:
        # checked is what was read
        outside.write_new(folder / f"signature{_SUFFIX}", bundle)
        try:
            config.set_hashing_config(_every_file()).verify(subject, folder / f"signature{_SUFFIX}")
        except OSError as error:
            raise _unreadable(subject, error) from error
        except Exception as error:
            differs = str(error).startswith(_MISMATCH)
            reason = _difference(subject, signed, outside) if differs else _reason(error)
            raise IntegrityError(
                f"{name} is not what {signatory} signed: {reason}",
                hint="Do not use it. Get it again from where it was signed, or ask who signed it.",
            ) from error
    return dict(signed.digests)


def sign_text(text: bytes, signer: Signer, outside: Outside) -> bytes:
    """Return the signature of a file that holds a text. Raises as `Signer.sign`."""
    with _scratch(outside) as folder:
        outside.write_new(folder / "text", text)
        return signer.sign(folder / "text", {_ITSELF: sha256(text)})


def check_signed_text(
    text: bytes, bundle: bytes, signatory: Signatory, outside: Outside, *, name: str
) -> None:
    """Check that somebody signed a file with a text. Raises as `check_signature`."""
    with _scratch(outside) as folder:
        outside.write_new(folder / "text", text)
        check_signature(folder / "text", bundle, signatory, outside, name=name)


def signature_place(subject: Path) -> Path:
    """Return where the signature of a directory or a file lies: beside it."""
    return subject.with_name(f"{subject.name}{_SUFFIX}")


def place_signature(bundle: bytes, place: Path, outside: Outside) -> None:
    """Write a signature, in place of an earlier one.

    Raises:
        RefusedError: something else is there.
        StoreError: the disk refuses.
    """
    if outside.exists(place):
        try:
            Bundle.of(outside.read(place, limit=_MOST_BYTES))
        except ShareRegistryError as error:
            raise RefusedError(
                f"{place} is there and no signature, so it is not overwritten.",
                hint="Move it away, or export to another directory.",
            ) from error
    outside.rewrite(place, bundle, point="signature")


def read_signature(place: Path, outside: Outside) -> bytes:
    """Return a signature. Raises NotFoundError."""
    ensure(
        outside.exists(place),
        NotFoundError(
            f"there is no signature {place}.",
            hint="Get it from where the export came from, or sign: export ... --sign KEY.",
        ),
    )
    return outside.read(place, limit=_MOST_BYTES)


@kinds.takes(
    directory=kinds.path,
    key=kinds.path,
    identity=kinds.text,
    issuer=kinds.text,
    signature=kinds.path,
)
def verify_export(
    directory: FilePath,
    *,
    key: FilePath | None = None,
    identity: str | None = None,
    issuer: str | None = None,
    signature: FilePath | None = None,
) -> SignedExport:
    """Check that an exported directory is what somebody signed, every byte of it.

    Needs no registry. The command `model_signing verify` gives the same answer.

    Args:
        directory: The directory, or a link to it.
        key: File of the public key of who must have signed it.
        identity: Who must have signed it with Sigstore: a mail address, or the URL of a workflow.
        issuer: URL of the OpenID Connect issuer that vouches for the identity.
        signature: File of the signature; `<directory>.sig` beside it where None.

    Raises:
        IntegrityError: a file was changed, added or removed, or somebody else signed it.
        InvalidInputError: it is not said whose signature counts, or the key is none.
        NotFoundError: there is no such directory, signature or key.
        RefusedError: model-signing is not installed.
    """
    outside = Outside()
    signatory = Signatory.of(key, identity, issuer)
    if signatory is None:
        raise InvalidInputError(
            "it is not said whose signature counts: anybody can sign.", hint=_SAY_WHOSE
        )
    path = outside.resolved(Path(directory))
    ensure(
        outside.kind(path) is Kind.DIRECTORY,
        NotFoundError(f"{directory} is no directory.", hint="Give what `export` made."),
    )
    place = signature_place(path) if signature is None else outside.absolute(Path(signature))
    digests = check_signature(path, read_signature(place, outside), signatory, outside)
    return SignedExport(
        path=path,
        signature=place,
        signatory=str(signatory),
        digest=directory_digest(digests),
        files=len(digests),
    )


def _configured(config: Any, signatory: Signatory, outside: Outside) -> Any:
    if signatory.key is None:
        try:
            return config.use_sigstore_verifier(
                identity=signatory.identity, oidc_issuer=signatory.issuer
            )
        # of a dozen packages below, each with errors of its own
        except Exception as error:
            raise _unreachable(error) from error
    key = _key_file(signatory.key, outside)
    try:
        return config.use_elliptic_key_verifier(public_key=key)
    except OSError as error:
        raise _unreadable(key, error) from error
    except Exception as error:
        raise InvalidInputError(
            f"{key} is no public key that can check: {_reason(error)}", hint=_MAKE_KEYS
        ) from error


def _key_file(key: Path, outside: Outside) -> Path:
    path = outside.absolute(key)
    kind = outside.kind_behind(path)
    ensure(kind is not None, NotFoundError(f"there is no key {key}.", hint=_MAKE_KEYS))
    ensure(
        kind is Kind.FILE,
        InvalidInputError(f"key {key} is a {kind}, expected a file.", hint=_MAKE_KEYS),
    )
    return path


def _tool() -> Any:
    try:
        # it needs pyOpenSSL, which it does not declare and the extra therefore has
        import model_signing
    except ImportError as error:
        raise RefusedError(
            f"model-signing is not installed, expected it for signatures ({error}).",
            hint="pip install 'share-registry[signing]'",
        ) from error
    return model_signing


def _every_file() -> Any:
    """Return how a directory is read: whole, also what belongs to git."""
    return _tool().hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)


def _unreadable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path} cannot be read: {error}.", hint="Check its permissions.")


def _unreachable(error: Exception) -> StoreError:
    return StoreError(
        f"Sigstore cannot be used: {_reason(error)}",
        hint="It needs the internet. A key pair needs none.",
    )


def _difference(subject: Path, signed: Bundle, outside: Outside) -> str:
    """Return in which files a directory differs from what was signed, for a message."""
    if outside.kind(subject) is Kind.FILE:
        return "it has other bytes."
    digests = signed.digests
    paths = {path.relative_to(subject): path for path in outside.files_below(subject)}
    present = {
        relative.as_posix(): path
        for relative, path in paths.items()
        if not any(relative.is_relative_to(ignored) for ignored in signed.ignored)
    }
    changed = [
        name
        for name in present.keys() & digests
        if sha256(outside.read(present[name], limit=outside.size(present[name]) or 0))
        != digests[name]
    ]
    parts = (
        ("changed", changed),
        ("added", present.keys() - digests),
        ("removed", digests.keys() - present),
    )
    said = (
        f"{first_and_more(sorted(names), _MOST_NAMES)} {'was' if len(names) == 1 else 'were'} {how}"
        for how, names in parts
        if names
    )
    return f"{', '.join(said)}."


def _reason(error: Exception) -> str:
    """Return what an error of another package says, in one sentence."""
    return f"{str(error).strip().rstrip('.')[:300] or type(error).__name__}."


def _members(content: bytes, subject: str) -> dict[str, object]:
    return parse_foreign(content, subject=subject, limit=_MOST_BYTES, longest=_MOST_BYTES)


@contextmanager
def _scratch(outside: Outside) -> Iterator[Path]:
    """Yield a directory that nobody else can write, and remove it."""
    folder = outside.temporary_directory("share-registry-")
    try:
        yield folder
    finally:
        outside.remove_tree(folder)
