"""A bucket of an object store (S3, GCS, Azure), through the library obstore.

What the library raises becomes StoreError here, without what may be secret in it: a URL may carry
a signature, and what a service answers the id of a key. Credentials come from the environment, as
each service's own tools read them, and are nowhere kept or shown.

The library retries what it may, with growing pauses: a request that was refused for now, and one
that only reads. It does not ask again for a name that must be free once the answer was lost. So an
error says whether the service may have done what it was asked (`UnansweredError`) or surely has
not (any other StoreError).
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Final

from share_registry.errors import (
    IntegrityError,
    InvalidInputError,
    RefusedError,
    StoreError,
    ensure,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore as Driver, RetryConfig

# The beginnings of addresses that name a bucket
SCHEMES: Final = ("s3", "gs", "az")
_ADDRESS: Final = re.compile(
    r"(?:s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]{1,254}(?P<prefix>(?:/[A-Za-z0-9._=+@-]+)*)/?"
)
_MISSING_BUCKET: Final = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
# What a service answers to a request that it does not carry out
_REFUSAL: Final = re.compile(r"non-2xx status code: 4\d\d|status code: 501")
# Where the library asks for the credentials of a machine that has none of its own to give
_NO_CREDENTIALS: Final = re.compile(r"169\.254\.|metadata\.google|/latest/api/token")
_XML: Final = re.compile(r"<\?xml.*", re.DOTALL)
_ELEMENT: Final = re.compile(r"<(Code|Message)>([^<]*)<")
_QUERY: Final = re.compile(r"\?[^\s\"')]*")
_CHECK: Final = "Check the address, the network and the credentials, and run it again."
_FORBIDDEN: Final = (
    "Check the credentials in the environment (AWS_ACCESS_KEY_ID ..., GOOGLE_APPLICATION_"
    "CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY ...) and what they may do in the bucket."
)
# A large object takes a while
_CLIENT: "Final[ClientConfig]" = {"timeout": "5min", "connect_timeout": "5s", "allow_http": True}
_RETRIES: "Final[RetryConfig]" = {
    "max_retries": 10,
    "retry_timeout": timedelta(minutes=2),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=10),
        "base": 2,
    },
}


class UnansweredError(StoreError):
    """A service failed or was not reached: what it was asked to do may have been done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a service says of bytes without giving them.

    Attributes:
        size: How many there are.
        modified_s: When they were written, in seconds since 1970, by the service's clock.
    """

    size: int
    modified_s: float


def is_bucket(address: str) -> bool:
    """Tell whether an address begins as that of a bucket."""
    return address.partition("://")[0] in SCHEMES and "://" in address


def without_secrets(address: str) -> str:
    """Return an address without what stands before its last @, and without queries."""
    scheme, mark, rest = address.partition("://")
    # a secret key may have slashes in it
    return f"{scheme}{mark}{_QUERY.sub('', rest.rpartition('@')[2])}"


def check_address(address: str) -> str:
    """Return the address of a bucket without a slash at its end. Raises InvalidInputError."""
    match = _ADDRESS.fullmatch(address)
    steps = match["prefix"].split("/") if match else []
    ensure(
        match is not None and not {".", ".."} & {*steps},
        InvalidInputError(
            f"{without_secrets(address)!r} is not s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or "
            "az://CONTAINER/PREFIX of letters, digits and ._=+@-.",
            hint="Credentials and endpoints come from the environment: AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AZURE_STORAGE_ACCOUNT_NAME ...",
        ),
    )
    return address.rstrip("/")


class Bucket:
    """Bytes under keys, all below a prefix. Safe for threads; a forked process is told to stop.

    Args:
        driver: A store of obstore.
        address: How it is called in messages.
    """

    def __init__(self, driver: "Driver", address: str) -> None:
        self._driver = driver
        self.address = address

    @classmethod
    def at(cls, address: str) -> "Bucket":
        """Return the bucket at an address; nothing is asked of the service yet.

        Raises:
            InvalidInputError: the address is malformed, or the environment does not say what the
                service needs.
            RefusedError: obstore is not installed.
        """
        address = check_address(address)
        from_url = _library()
        try:
            driver = from_url(address, client_options=_CLIENT, retry_config=_RETRIES)
        # of the library, and ValueError of its parsers
        except Exception as error:  # noqa: BLE001
            raise InvalidInputError(
                f"{address} cannot be used: {reason_of(error)}.", hint=_FORBIDDEN
            ) from None
        return cls(driver, address)

    def create(self, key: str, content: bytes) -> bool:
        """Write bytes under a key that must be free, and tell whether it was.

        A key is not free, too, where an earlier try of this call took it whose answer was lost.
        """
        from obstore.exceptions import AlreadyExistsError

        with self._asking(), suppress(AlreadyExistsError):
            self._driver.put(key, content, mode="create")
            return True
        return False

    def replace(self, key: str, content: bytes) -> None:
        """Write bytes under a key, whatever is there."""
        with self._asking():
            self._driver.put(key, content, use_multipart=False)

    def read(self, key: str, limit: int) -> bytes | None:
        """Return the bytes under a key, None where there are none.

        Raises IntegrityError where there are more than the limit; they are not read.
        """
        with self._asking():
            try:
                answer = self._driver.get(key)
                ensure(
                    answer.meta["size"] <= limit,
                    IntegrityError(
                        f"{key} has {answer.meta['size']} bytes, more than the limit of {limit}.",
                        hint="Run verify.",
                    ),
                )
                return bytes(answer.bytes())
            except FileNotFoundError as error:
                if _MISSING_BUCKET.search(str(error)):
                    raise
                return None

    def status(self, key: str) -> Status | None:
        """Return what the service says of the bytes under a key, None where there are none."""
        with self._asking(), suppress(FileNotFoundError):
            meta = self._driver.head(key)
            return Status(size=meta["size"], modified_s=meta["last_modified"].timestamp())
        return None

    def keys(self, folder: str = "", *, after: str | None = None) -> Iterator[tuple[str, int]]:
        """Yield the keys below a folder with their sizes, a thousand a request, as they are taken.

        Args:
            folder: Whole parts between slashes.
            after: Only keys that sort behind this one.
        """
        with self._asking():
            stream = self._driver.list(folder or None, offset=after, chunk_size=1000)
        while True:
            with self._asking():
                metas = next(stream, None)
            if metas is None:
                return
            yield from ((meta["path"], meta["size"]) for meta in metas)

    def inside(self, folder: str = "") -> tuple[list[tuple[str, int]], list[str]]:
        """Return the keys right in a folder with their sizes, and the names of its folders."""
        with self._asking():
            listing = self._driver.list_with_delimiter(folder or None)
        keys = [(meta["path"], meta["size"]) for meta in listing["objects"]]
        return keys, [path.rstrip("/").rpartition("/")[2] for path in listing["common_prefixes"]]

    def remove(self, *keys: str) -> None:
        """Remove what is under some keys, a thousand a request; nothing there is fine."""
        if keys:
            with self._asking(), suppress(FileNotFoundError):
                self._driver.delete([*keys] if len(keys) > 1 else keys[0])

    def copy(self, source: str, target: str) -> None:
        """Write under a key what is under another, without reading it."""
        with self._asking():
            self._driver.copy(source, target)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn what the library raises into StoreError."""
        _check_process()
        from obstore import exceptions

        try:
            yield
        except exceptions.AlreadyExistsError:
            raise
        except (exceptions.BaseError, OSError, ValueError) as error:
            reason = reason_of(error)
            is_denied = isinstance(
                error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError
            )
            is_sure = (
                is_denied
                or not isinstance(error, exceptions.GenericError | OSError)
                or isinstance(error, FileNotFoundError)
                or _REFUSAL.search(str(error))
            )
            kind = StoreError if is_sure else UnansweredError
            # the library's own text may have signatures and keys in it
            raise kind(
                f"{self.address}: {reason}.",
                hint=_FORBIDDEN if is_denied or _NO_CREDENTIALS.search(reason) else _CHECK,
            ) from type(error)(reason)


def reason_of(error: BaseException) -> str:
    """Return what a service answered, or the library says, without what may be secret in it."""
    text = str(error).partition("\n\nDebug source")[0].strip()
    elements = dict(_ELEMENT.findall(text))
    if elements:
        answer = ": ".join(
            filter(None, (elements.get("Code"), elements.get("Message", "").strip()))
        )
        text = _XML.sub(answer.splitlines()[0] if answer else "", text)
    return _QUERY.sub("", " ".join(text.split())).rstrip(".: ")


def _library() -> "Callable[..., Driver]":
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise RefusedError(
            "the library for object stores is not installed.",
            hint="pip install 'share-registry[s3]'",
        ) from error
    return from_url


@cache
def _first_process() -> int:
    """Return the process that used the library first; a forked one has a copy of the answer."""
    return os.getpid()


def _check_process() -> None:
    """Refuse a process forked from one that used the library: it would wait for ever.

    The library's threads are not in the child, and nothing can start them again.
    """
    ensure(
        _first_process() == os.getpid(),
        RefusedError(
            "this process was forked from one that used an object store, and cannot use one.",
            hint="Start it anew: multiprocessing's start method 'spawn' or 'forkserver'.",
        ),
    )
