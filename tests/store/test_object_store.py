"""A store in a bucket keeps its promises whatever becomes of requests and answers.

A proxy in front of a server loses them, refuses for now, and spoils what is read.
"""

import multiprocessing
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from share_registry.errors import (
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    StoreError,
)
from share_registry.format.canonical import sha256
from share_registry.names import CommitNumber, SpaceName
from share_registry.outside.files import Outside
from share_registry.store.bucket import Bucket, UnansweredError, check_address
from share_registry.store.object_cache import ObjectCache
from share_registry.store.object_store import ObjectStore
from share_registry.store.open import open_store
from share_registry.store.protocol import KeptHead, PublishStateUnknownError, object_name
from share_registry.testing.stores import FIRST, SPACE, put_bytes
from tests.store.faulty_proxy import KEY_ID, Fault, Plan, Proxy, proxy_to
from tests.store.object_servers import Hasty, driver, environment, fresh_bucket, fresh_store

if TYPE_CHECKING:
    from obstore.store import RetryConfig

CONTENT: Final = b"weights" * 100
SECRETS: Final = (KEY_ID, "wJalrXUtnFEMI")
# as the library retries, with shorter pauses
_RETRIES: "Final[RetryConfig]" = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {
        "init_backoff": timedelta(milliseconds=5),
        "max_backoff": timedelta(milliseconds=10),
        "base": 2,
    },
}


@pytest.fixture
def store(proxy: Proxy) -> ObjectStore:
    """An empty store behind the proxy."""
    return fresh_store(fresh_bucket(proxy.url, retries=_RETRIES))


def at_first(fault: Fault, method: str, part: str, times: int = 1) -> Plan:
    """Return a plan by which the first requests to a key fail."""
    return lambda asked, path, count: (
        fault if asked == method and part in path and count < times else Fault.NONE
    )


@pytest.mark.parametrize(
    "fault",
    [Fault.LOST_REQUEST, Fault.LOST_ANSWER, Fault.SLOW_DOWN, Fault.FAILED, Fault.CONFLICT],
)
@pytest.mark.parametrize("times", [1, 2])
def test_a_record_is_published_once_whatever_becomes_of_the_first_requests(
    proxy: Proxy, store: ObjectStore, fault: Fault, times: int
) -> None:
    proxy.plan = at_first(fault, "PUT", "/log/", times)
    assert store.publish(SPACE, FIRST, b"mine")
    assert not store.publish(SPACE, FIRST, b"theirs")
    assert store.record(SPACE, FIRST) == b"mine"


def test_a_lost_answer_to_the_loser_of_a_race_makes_no_winner_of_it(
    proxy: Proxy, store: ObjectStore
) -> None:
    store.publish(SPACE, FIRST, b"theirs")
    proxy.plan = at_first(Fault.LOST_ANSWER, "PUT", "/log/", times=3)
    assert not store.publish(SPACE, FIRST, b"mine")


def test_a_record_is_unknown_where_the_service_never_answers(
    proxy: Proxy, store: ObjectStore
) -> None:
    proxy.plan = lambda method, path, count: Fault.LOST_ANSWER if "/log/" in path else Fault.NONE
    with pytest.raises(PublishStateUnknownError):
        store.publish(SPACE, FIRST, b"mine")
    proxy.plan = lambda method, path, count: Fault.NONE
    assert store.record(SPACE, FIRST) == b"mine", "it was published after all"
    assert store.publish(SPACE, FIRST, b"mine"), "and publishing it again says so"


def test_a_record_that_is_refused_was_surely_not_published(
    proxy: Proxy, store: ObjectStore
) -> None:
    proxy.plan = at_first(Fault.FORBIDDEN, "PUT", "/log/")
    with pytest.raises(StoreError) as refused:
        store.publish(SPACE, FIRST, b"mine")
    assert not isinstance(refused.value, PublishStateUnknownError)
    assert store.record(SPACE, FIRST) is None


@pytest.mark.parametrize("fault", [Fault.LOST_REQUEST, Fault.LOST_ANSWER, Fault.SLOW_DOWN])
def test_an_object_is_put_whatever_becomes_of_the_first_request(
    proxy: Proxy, store: ObjectStore, fault: Fault
) -> None:
    proxy.plan = at_first(fault, "PUT", "/objects/")
    store.put(CONTENT, sha256(CONTENT))
    assert store.get(sha256(CONTENT)) == CONTENT


@pytest.mark.parametrize(
    "fault", [Fault.LOST_REQUEST, Fault.LOST_ANSWER, Fault.SLOW_DOWN, Fault.CUT, Fault.SPOILT]
)
def test_an_object_is_read_whole_whatever_becomes_of_the_first_answer(
    proxy: Proxy, store: ObjectStore, fault: Fault
) -> None:
    digest = put_bytes(store, CONTENT)
    proxy.plan = at_first(fault, "GET", "/objects/")
    assert store.get(digest) == CONTENT


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.SPOILT])
def test_an_object_that_is_always_spoilt_is_an_error_and_never_bytes(
    proxy: Proxy, store: ObjectStore, fault: Fault
) -> None:
    digest = put_bytes(store, CONTENT)
    proxy.plan = at_first(fault, "GET", "/objects/", times=1000)
    with pytest.raises((IntegrityError, StoreError)):
        store.get(digest)


def test_throttling_that_does_not_end_is_an_error_with_what_to_do(
    proxy: Proxy, store: ObjectStore
) -> None:
    proxy.plan = lambda method, path, count: Fault.SLOW_DOWN
    with pytest.raises(UnansweredError, match="SlowDown") as refused:
        store.get(sha256(CONTENT))
    assert refused.value.hint


def test_an_object_that_has_rotted_is_replaced_when_it_is_put_again(
    moto_url: str, store: ObjectStore
) -> None:
    digest = put_bytes(store, CONTENT)
    store.replace(object_name(digest), b"rotten")
    with pytest.raises(IntegrityError):
        store.get(digest)
    put_bytes(store, CONTENT)
    assert store.get(digest) == CONTENT


def test_a_service_without_conditional_writes_is_refused_for_writing_and_read(
    proxy: Proxy, store: ObjectStore
) -> None:
    store.publish(SPACE, FIRST, b"mine")
    proxy.plan = lambda method, path, count: Fault.UNCONDITIONAL
    with pytest.raises(RefusedError, match="twice") as refused:
        ObjectStore(store._bucket, Hasty())
    assert "mode 'r'" in refused.value.hint
    reader = ObjectStore(store._bucket, Hasty(), read_only=True)
    assert reader.record(SPACE, FIRST) == b"mine"
    assert reader.format_bytes() == store.format_bytes(), "the try left FORMAT as it was"


def test_a_reader_asks_for_nothing_that_writes(proxy: Proxy, store: ObjectStore) -> None:
    digest = put_bytes(store, CONTENT)
    proxy.requests.clear()
    reader = ObjectStore(store._bucket, Hasty(), read_only=True)
    assert reader.get(digest) == CONTENT
    assert {method for method, _ in proxy.requests} == {"GET"}
    assert len(proxy.requests) == 2
    for write in (
        lambda: reader.put(CONTENT, digest),
        lambda: reader.publish(SPACE, FIRST, b"mine"),
        lambda: reader.remove([digest]),
        lambda: reader.keep_head(SPACE, None),
        lambda: reader.set_aside(object_name(digest), "place"),
    ):
        with pytest.raises(RefusedError):
            write()


def test_a_bucket_that_is_not_there_is_no_empty_store(moto_url: str) -> None:
    absent = Bucket(driver(moto_url, bucket="absent-bucket"), "s3://absent-bucket")
    with pytest.raises(StoreError, match="NoSuchBucket"):
        ObjectStore(absent, Hasty(), read_only=True)
    with pytest.raises(StoreError, match="NoSuchBucket"):
        absent.read("a key", 1)


def test_an_empty_prefix_is_no_registry_to_a_reader(moto_url: str) -> None:
    with pytest.raises(NotFoundError, match="no registry"):
        ObjectStore(fresh_bucket(moto_url), Hasty(), read_only=True)


def test_objects_without_a_format_file_are_no_new_store(moto_url: str) -> None:
    bucket = fresh_bucket(moto_url)
    bucket.create(object_name(sha256(CONTENT)), CONTENT)
    with pytest.raises(IntegrityError, match="FORMAT"):
        fresh_store(bucket)


def test_one_look_tells_whether_logs_go_on(proxy: Proxy, store: ObjectStore) -> None:
    spaces = [SpaceName("a"), SpaceName("b")]
    for space in spaces:
        for number in (1, 2):
            store.publish(space, CommitNumber(number), b"%d" % number)
    last = KeptHead(number=CommitNumber(2), id=sha256(b"2"))
    proxy.requests.clear()
    assert store.ends_with(dict.fromkeys(spaces, last))
    assert len(proxy.requests) == 1
    assert not store.ends_with({spaces[0]: last}), "another space"
    first = KeptHead(number=FIRST, id=sha256(b"1"))
    assert not store.ends_with({spaces[0]: last, spaces[1]: first}), "a record behind"
    forked = KeptHead(number=CommitNumber(2), id=sha256(b"fork"))
    assert not store.ends_with({spaces[0]: last, spaces[1]: forked}), "another log"


@pytest.mark.parametrize("is_published", [True, False])
def test_a_writer_that_dies_in_the_middle_never_hides_a_record(
    proxy: Proxy, store: ObjectStore, is_published: bool
) -> None:
    store.publish(SPACE, FIRST, b"1")
    head = KeptHead(number=FIRST, id=sha256(b"1"))
    assert store.ends_with({SPACE: head})
    fault = Fault.LOST_ANSWER if is_published else Fault.LOST_REQUEST
    proxy.plan = lambda method, path, count: (
        fault if path.endswith("/log/00000000000000000002.json") else Fault.NONE
    )
    with pytest.raises(PublishStateUnknownError):
        store.publish(SPACE, CommitNumber(2), b"2")
    assert not store.ends_with({SPACE: head}), "so that whoever reads looks closer"


def test_marks_of_earlier_records_do_not_pile_up(store: ObjectStore) -> None:
    for number in range(1, 65):
        store.publish(SPACE, CommitNumber(number), b"%d" % number)
    names = [name for name, _ in store.sizes("catalog.sqlite.ends/")]
    assert len(names) == 1
    assert store.ends_with({SPACE: KeptHead(number=CommitNumber(64), id=sha256(b"64"))})


def test_a_writer_that_may_not_delete_commits_all_the_same(
    proxy: Proxy, store: ObjectStore
) -> None:
    proxy.plan = lambda method, path, count: (
        Fault.FORBIDDEN if method in ("POST", "DELETE") else Fault.NONE
    )
    for number in (31, 32):
        assert store.publish(SPACE, CommitNumber(number), b"%d" % number)


def test_what_is_read_ahead_is_read_once_and_together(proxy: Proxy, store: ObjectStore) -> None:
    contents = [bytes([number]) * 1000 for number in range(8)]
    digests = [put_bytes(store, content) for content in contents]
    reader = ObjectStore(store._bucket, Hasty(), read_only=True)
    proxy.requests.clear()
    proxy.delay_s = 0.5
    begun_s = time.monotonic()
    reader.read_ahead(digests)
    reader.read_ahead(digests)
    assert [reader.get(digest) for digest in digests] == contents
    assert time.monotonic() - begun_s < 8 * 0.5, "one after another they take longer"
    assert len(proxy.requests) == 8
    reader.close()


def test_what_is_read_ahead_and_not_there_is_an_error_where_it_is_asked_for(
    store: ObjectStore,
) -> None:
    absent = sha256(b"absent")
    store.read_ahead([absent])
    with pytest.raises(NotFoundError):
        store.get(absent)
    put_bytes(store, b"absent")
    assert store.get(absent) == b"absent"


@pytest.mark.parametrize("count", [3, 100])
def test_what_is_missing_is_told_in_few_requests(
    proxy: Proxy, store: ObjectStore, count: int
) -> None:
    digests = [sha256(b"%d" % number) for number in range(count)]
    put_bytes(store, b"0")
    proxy.requests.clear()
    assert store.missing(digests) == sorted(digests[1:])
    assert len(proxy.requests) <= 3


def test_a_bucket_filled_by_a_copying_tool_is_looked_at_closer(
    store: ObjectStore, moto_url: str
) -> None:
    store.publish(SPACE, FIRST, b"1")
    copy = fresh_bucket(moto_url)
    for name, _ in store.sizes(""):
        if not name.startswith("catalog.sqlite"):
            copy.create(name, store.read(name) or b"")
    head = KeptHead(number=FIRST, id=sha256(b"1"))
    copied = ObjectStore(copy, Hasty())
    assert not copied.ends_with({SPACE: head})
    assert not copied.ends_with({})
    copied.keep_head(SPACE, head)
    assert copied.ends_with({SPACE: head}), "a rebuild notes the end of each log"


def test_a_record_given_up_leaves_no_mark(store: ObjectStore) -> None:
    store.publish(SPACE, FIRST, b"1")
    store.publish(SPACE, CommitNumber(2), b"damaged")
    store.set_aside(f"spaces/{SPACE}/log/{2:020d}.json", "place")
    assert store.has_quarantine()
    assert store.ends_with({SPACE: KeptHead(number=FIRST, id=sha256(b"1"))})
    store.publish(SPACE, CommitNumber(2), b"2")
    assert store.ends_with({SPACE: KeptHead(number=CommitNumber(2), id=sha256(b"2"))})
    assert list(store.strays()) == []


@pytest.mark.parametrize(
    "address",
    [
        *("s3://", "s3:///x", "s3://bucket//x", "s3://bucket/../x", "s3://bucket/x?y=1"),
        *(
            "s3://bucket/x y",
            "s3://bucket/./x",
            "s3://AKIAEXAMPLE:wJalrXUtnFEMI@bucket/x",
            "s3://AKIAEXAMPLE:ab/wJalrXUtnFEMI@bucket/x",
            "s3://bucket?X-Amz-Signature=wJalrXUtnFEMI",
            "s3://b",
        ),
    ],
)
def test_a_malformed_address_is_refused_without_its_secrets(address: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        check_address(address)
    assert not [secret for secret in SECRETS if secret in str(refused.value)]


@pytest.mark.parametrize("scheme", ["S3", "s3a", "minio"])
def test_an_address_of_another_kind_is_refused_without_its_secrets(scheme: str) -> None:
    address = f"{scheme}://AKIAEXAMPLE:ab/wJalrXUtnFEMI@bucket/x"
    with pytest.raises(InvalidInputError) as refused:
        open_store(address, "r", Outside())
    assert not [secret for secret in SECRETS if secret in str(refused.value)]


def test_what_a_tool_copied_beside_an_object_goes_with_it(store: ObjectStore) -> None:
    """A directory has second copies of layouts and configs beside FORMAT (spec STO-14)."""
    digest, kept = put_bytes(store, b"removed"), sha256(b"kept")
    for each in (digest, kept):
        store._bucket.replace(f"catalog.sqlite.spare-{each}", b"removed")
    assert store.spares() == sorted([digest, kept])
    store.remove([digest])
    assert (store.has(digest), store.spares()) == (False, [kept])


def test_no_error_shows_credentials(moto_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with proxy_to(moto_url) as proxy:
        proxy.plan = lambda method, path, count: Fault.FORBIDDEN
        bucket = Bucket(driver(proxy.url, credentials=SECRETS), "s3://registry")
        with caplog.at_level(0), pytest.raises(StoreError) as refused:
            ObjectStore(bucket, Hasty())
    texts = [caplog.text, str(refused.value), repr(refused.value.__cause__)]
    assert not [secret for secret in SECRETS if any(secret in text for text in texts)]
    assert "AccessDenied" in str(refused.value)


def test_a_process_forked_from_one_that_used_a_store_is_refused_and_does_not_hang(
    moto_url: str,
) -> None:
    program = (
        "import os, sys\n"
        "from share_registry.errors import RefusedError\n"
        "from share_registry.store.bucket import Bucket\n"
        "bucket = Bucket.at('s3://registry/forked')\n"
        "bucket.read('FORMAT', 100)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try:\n"
        "        bucket.read('FORMAT', 100)\n"
        "    except RefusedError as error:\n"
        "        os._exit(7 if 'spawn' in error.hint else 1)\n"
        "    os._exit(1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment(moto_url), timeout=60, check=False
    )
    assert ended.returncode == 7


class TestObjectCache:
    @pytest.fixture
    def cache(self, tmp_path: Path) -> ObjectCache:
        return ObjectCache(tmp_path / "copies", Outside(), capacity_bytes=100_000)

    def test_a_second_read_asks_for_nothing(
        self, proxy: Proxy, store: ObjectStore, cache: ObjectCache
    ) -> None:
        digest = put_bytes(store, CONTENT)
        reader = ObjectStore(store._bucket, Hasty(), cache=cache, read_only=True)
        assert reader.get(digest) == CONTENT
        proxy.requests.clear()
        assert reader.get(digest) == CONTENT
        assert proxy.requests == []
        assert reader.uncached().get(digest) == CONTENT
        assert len(proxy.requests) == 1, "whoever verifies reads the bucket"

    def test_a_damaged_copy_is_fetched_again(
        self, store: ObjectStore, cache: ObjectCache, tmp_path: Path
    ) -> None:
        digest = put_bytes(store, CONTENT)
        reader = ObjectStore(store._bucket, Hasty(), cache=cache, read_only=True)
        reader.get(digest)
        copy = tmp_path / "copies" / digest[:2] / digest[2:]
        copy.write_bytes(b"rotten")
        assert reader.get(digest) == CONTENT
        assert copy.read_bytes() == CONTENT

    def test_it_stays_within_its_bounds_and_keeps_what_was_read_last(
        self, cache: ObjectCache, tmp_path: Path
    ) -> None:
        contents = [bytes([number]) * 10_000 for number in range(40)]
        for age, content in enumerate(contents):
            cache.put(sha256(content), content)
            path = tmp_path / "copies" / sha256(content)[:2] / sha256(content)[2:]
            if path.exists():
                os.utime(path, (age, age))
        size = sum(
            path.stat().st_size for path in (tmp_path / "copies").rglob("*") if path.is_file()
        )
        assert size <= 100_000 * 17 / 16
        assert cache.get(sha256(contents[-1]), 10_000) == contents[-1]
        assert cache.get(sha256(contents[0]), 10_000) is None

    def test_a_folder_that_cannot_be_written_is_no_error(
        self, store: ObjectStore, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        cache = ObjectCache(tmp_path / "file", Outside(), capacity_bytes=100_000)
        digest = put_bytes(store, CONTENT)
        reader = ObjectStore(store._bucket, Hasty(), cache=cache, read_only=True)
        assert reader.get(digest) == CONTENT

    def test_processes_share_it(self, tmp_path: Path) -> None:
        contents = [bytes([number]) * 20_000 for number in range(12)]
        context = multiprocessing.get_context("spawn")
        with context.Pool(3) as pool:
            counts = pool.map(_use_cache, [str(tmp_path / "copies")] * 3)
        assert counts == [0, 0, 0], "no reader was ever given other bytes"
        assert contents


def _use_cache(folder: str) -> int:
    """Put and get, with less room than is needed; return how often other bytes came back."""
    cache = ObjectCache(Path(folder), Outside(), capacity_bytes=100_000)
    contents = [bytes([number]) * 20_000 for number in range(12)]
    wrong = 0
    for content in contents * 5:
        cache.put(sha256(content), content)
        copy = cache.get(sha256(content), 20_000)
        wrong += copy not in (None, content)
    return wrong
