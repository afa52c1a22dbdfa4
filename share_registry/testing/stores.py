"""What every store must do, as a test suite to subclass.

It needs pytest and hypothesis, which nothing else in the package does: install
`share-registry[testing]`. A test module of a store `MyStore` is no longer than this:

    import uuid

    import pytest

    from share_registry.testing.stores import NewStore, StoreConformance


    class TestMyStore(StoreConformance):
        @pytest.fixture
        def new_store(self) -> NewStore:
            return lambda: MyStore(identity=str(uuid.uuid4()))
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeAlias

import pytest
from hypothesis import given, settings, strategies as st

from share_registry import kinds
from share_registry.errors import (
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
)
from share_registry.format.canonical import sha256
from share_registry.format.format_file import parse_format
from share_registry.kinds import takes
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.store.protocol import (
    MAX_RECORD_BYTES,
    KeptHead,
    Store,
    check_bytes,
    object_name,
)

# A function that makes an empty store, with an identity of its own, at each call
NewStore: TypeAlias = Callable[[], Store]
FIRST: Final = CommitNumber(1)
SECOND: Final = CommitNumber(2)
SPACE: Final = SpaceName("base")
EVIL_NAMES: Final = (
    *("", ".", "..", "../x", "a/b", "/etc", "a\\b", "a\x00b", "a\nb", "A", "é", "-a", ".a", "_a"),
    *("a..b", "a.", "con", "nul.txt", "com1", "lpt9.a", "a" * 65, "a b", "a%2fb", "a:b", "~", "*"),
    *("a?", "\u202ea", "ａ", "a\u0301"),
)
EVIL_DIGESTS: Final = (
    *("", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "../" + "0" * 61, "0" * 63 + "/"),
    *("0" * 63 + "\n", "\u0660" * 64, "/" + "0" * 63),
)
# Methods that are given a space, and what they are given besides
_OF_A_SPACE: Final[dict[str, tuple[object, ...]]] = {
    "publish": (FIRST, b"{}"),
    "record": (FIRST,),
    "first_record": ([FIRST],),
    "numbers": (),
}
_PROPERTY: Final = settings(max_examples=40, deadline=None)
_WRITERS: Final = 6


@takes(store=kinds.of(Store, "a Store", "Give an open store."))
def put_bytes(store: Store, content: bytes) -> Digest:
    """Put some bytes and return their digest."""
    check_bytes("content", content)
    digest = sha256(content)
    store.put(content, digest)
    return digest


class StoreConformance:
    """The suite: subclass it and override the fixture `new_store`."""

    @pytest.fixture
    def new_store(self) -> NewStore:
        """Return a function that makes an empty store at each call."""
        raise NotImplementedError("a subclass of StoreConformance overrides the fixture new_store")

    @pytest.fixture
    def store(self, new_store: NewStore) -> Store:
        """Return an empty store."""
        return new_store()

    def test_it_has_every_member_of_the_protocol(self, store: Store) -> None:
        missing = {*dir(Store)} - {*dir(store)}
        assert [name for name in missing if not name.startswith("_")] == []

    def test_it_names_itself_in_its_format_file(self, new_store: NewStore) -> None:
        first, second = new_store(), new_store()
        assert parse_format(first.format_bytes()).store == first.identity
        assert first.kept_format() == first.format_bytes()
        assert first.identity != second.identity, "every store has a uuid of its own"

    def test_a_new_store_is_empty_and_may_be_written(self, store: Store) -> None:
        assert not store.read_only
        assert store.spaces() == []
        assert list(store.objects()) == []
        assert list(store.strays()) == []

    def test_an_object_comes_back_byte_for_byte(self, new_store: NewStore) -> None:
        @_PROPERTY
        @given(content=st.binary(max_size=5000))
        def check(content: bytes) -> None:
            store = new_store()
            digest = put_bytes(store, content)
            assert store.get(digest) == content
            assert store.has(digest)
            assert store.size(digest) == len(content)

        check()

    def test_an_object_of_several_mebibytes_comes_back(self, store: Store) -> None:
        content = bytes(range(256)) * (3 << 12) + b"end"
        assert store.get(put_bytes(store, content)) == content

    def test_put_tells_whether_the_object_was_new(self, store: Store) -> None:
        content = b"weights"
        assert store.put(content, sha256(content))
        assert not store.put(content, sha256(content))
        assert store.get(sha256(content)) == content

    def test_put_refuses_a_digest_of_other_bytes(self, store: Store) -> None:
        with pytest.raises(InvalidInputError):
            store.put(b"these bytes", sha256(b"other bytes"))
        assert list(store.objects()) == []

    def test_a_missing_object_is_not_found(self, store: Store) -> None:
        digest = sha256(b"never put")
        assert not store.has(digest)
        assert store.size(digest) is None
        with pytest.raises(NotFoundError):
            store.get(digest)

    def test_get_keeps_to_its_limit(self, store: Store) -> None:
        digest = put_bytes(store, b"12345")
        assert store.get(digest, limit=5) == b"12345"
        with pytest.raises(IntegrityError):
            store.get(digest, limit=4)

    @pytest.mark.parametrize("text", EVIL_DIGESTS)
    @pytest.mark.parametrize("method", ["get", "has", "size", "put"])
    def test_what_is_no_digest_is_refused(self, store: Store, method: str, text: str) -> None:
        arguments = (b"", text) if method == "put" else (text,)
        with pytest.raises(InvalidInputError):
            getattr(store, method)(*arguments)

    @pytest.mark.parametrize("text", EVIL_NAMES)
    @pytest.mark.parametrize("method", _OF_A_SPACE)
    def test_what_is_no_space_name_is_refused_and_leaves_nothing(
        self, store: Store, method: str, text: str
    ) -> None:
        with pytest.raises(InvalidInputError):
            getattr(store, method)(SpaceName(text), *_OF_A_SPACE[method])
        assert store.spaces() == []

    @pytest.mark.parametrize("number", [0, -1, kinds.LARGEST + 1, 10**20])
    def test_a_number_out_of_range_is_refused(self, store: Store, number: int) -> None:
        with pytest.raises(InvalidInputError):
            store.publish(SPACE, CommitNumber(number), b"{}")
        with pytest.raises(InvalidInputError):
            store.record(SPACE, CommitNumber(number))

    def test_a_number_is_given_once(self, store: Store) -> None:
        assert store.publish(SPACE, FIRST, b"mine")
        assert not store.publish(SPACE, FIRST, b"theirs")
        assert store.record(SPACE, FIRST) == b"mine"

    def test_publishing_the_same_bytes_again_is_a_success(self, store: Store) -> None:
        assert store.publish(SPACE, FIRST, b"mine")
        assert store.publish(SPACE, FIRST, b"mine")

    def test_a_missing_record_is_none(self, store: Store) -> None:
        assert store.record(SPACE, FIRST) is None
        store.publish(SPACE, FIRST, b"{}")
        assert store.record(SPACE, CommitNumber(2)) is None
        assert store.record(SpaceName("other"), FIRST) is None

    def test_the_first_of_some_numbers_that_has_a_record_is_found(self, store: Store) -> None:
        numbers = [CommitNumber(number) for number in (9, 4, 2)]
        assert store.first_record(SPACE, numbers) is None
        for number in (1, 2, 4):
            store.publish(SPACE, CommitNumber(number), b"{}")
        assert store.first_record(SPACE, numbers) == 4, "first in the order of the argument"
        assert store.first_record(SpaceName("other"), numbers) is None

    def test_numbers_and_spaces_are_listed_in_order(self, store: Store) -> None:
        for space in ("b", "a.1", "a"):
            for number in (1, 2, 10, 3):
                store.publish(SpaceName(space), CommitNumber(number), b"{}")
        assert store.spaces() == ["a", "a.1", "b"]
        assert store.spaces(expected=[SpaceName("b"), SpaceName("gone")]) == ["a", "a.1", "b"]
        assert store.numbers(SpaceName("a")) == [1, 2, 3, 10], "sorted as numbers, not as text"
        assert store.numbers(SpaceName("c")) == []

    def test_a_space_whose_first_record_is_gone_is_listed(self, store: Store) -> None:
        store.publish(SPACE, CommitNumber(2), b"{}")
        assert store.spaces() == [SPACE]
        assert store.numbers(SPACE) == [2]

    def test_a_record_has_a_limit(self, store: Store) -> None:
        with pytest.raises(InvalidInputError):
            store.publish(SPACE, FIRST, bytes(MAX_RECORD_BYTES + 1))
        assert store.publish(SPACE, FIRST, bytes(MAX_RECORD_BYTES))
        assert store.record(SPACE, FIRST) == bytes(MAX_RECORD_BYTES)

    def test_objects_are_listed_once_each_with_their_size(self, store: Store) -> None:
        contents = [bytes([number]) * number for number in range(20)]
        for content in [*contents, *contents]:
            put_bytes(store, content)
        assert list(store.objects()) == sorted(
            (sha256(content), len(content)) for content in contents
        )

    def test_an_object_has_the_time_of_its_last_put_and_can_be_removed(self, store: Store) -> None:
        try:
            before_s = store.now_s()
        except RefusedError:
            # a store may keep everything: then nothing is removed from it
            with pytest.raises(RefusedError):
                store.remove([sha256(b"kept")])
            return
        digest = put_bytes(store, b"removed")
        first_s = store.used_s(digest)
        assert first_s is not None
        # clocks of media tick some hundred times a second, and some round to whole ones
        assert before_s - 2.0 <= first_s <= store.now_s() + 2.0
        put_bytes(store, b"removed")
        assert (store.used_s(digest) or 0.0) >= first_s
        for _ in range(2):
            store.remove([digest, sha256(b"absent")])
        assert (store.has(digest), store.used_s(digest)) == (False, None)
        assert put_bytes(store, b"removed") == digest
        assert store.get(digest) == b"removed"

    def test_a_store_that_was_only_used_through_the_protocol_has_no_strays(
        self, store: Store
    ) -> None:
        put_bytes(store, b"object")
        put_bytes(store, b"object")
        store.publish(SPACE, FIRST, b"mine")
        store.publish(SPACE, FIRST, b"theirs")
        assert list(store.strays()) == []

    def test_what_is_missing_is_listed_once_and_sorted(self, store: Store) -> None:
        there = [put_bytes(store, content) for content in (b"a", b"b")]
        absent = sorted(sha256(b"%d" % number) for number in range(20))
        assert store.missing([*absent, *there, *absent]) == absent
        assert store.missing([]) == []

    def test_reading_ahead_changes_no_answer(self, store: Store) -> None:
        digest = put_bytes(store, b"ahead")
        store.read_ahead([digest, sha256(b"absent")])
        assert store.at_once >= 1
        assert [store.get(digest) for _ in range(2)] == [b"ahead"] * 2
        with pytest.raises(NotFoundError):
            store.get(sha256(b"absent"))

    def test_without_its_caches_it_is_the_same_store(self, store: Store) -> None:
        digest = put_bytes(store, b"object")
        store.publish(SPACE, FIRST, b"mine")
        far = store.uncached()
        assert (far.identity, far.format_bytes()) == (store.identity, store.format_bytes())
        assert (far.get(digest), far.record(SPACE, FIRST)) == (b"object", b"mine")

    def test_the_end_of_a_log_is_never_taken_for_another(self, store: Store) -> None:
        store.publish(SPACE, FIRST, b"first")
        store.publish(SPACE, SECOND, b"second")
        ends = {SPACE: KeptHead(number=SECOND, id=sha256(b"second"))}
        behind = {SPACE: KeptHead(number=FIRST, id=sha256(b"first"))}
        # a store may say that it cannot tell, but not that something is so that is not
        assert store.ends_with(ends) in (True, False)
        assert not store.ends_with(behind)
        assert not store.ends_with({})
        assert not store.ends_with({**ends, SpaceName("more"): behind[SPACE]})

    def test_a_head_that_is_kept_is_the_last_that_was_noted(self, store: Store) -> None:
        assert (store.kept_head(SPACE), store.kept_heads()) == (None, {})
        heads = [
            KeptHead(number=CommitNumber(number), id=sha256(b"%d" % number)) for number in (1, 2)
        ]
        for head in heads:
            store.keep_head(SPACE, head)
            # what is noted may be lost
            assert store.kept_head(SPACE) in (head, None)
            assert store.kept_heads() in ({SPACE: head}, {})
        store.keep_head(SPACE, None)
        assert (store.kept_head(SPACE), store.kept_heads()) == (None, {})

    def test_a_second_copy_is_of_the_same_bytes_and_goes_with_its_object(
        self, store: Store
    ) -> None:
        digest = put_bytes(store, b"needed by many")
        assert (store.spare(digest), store.spares()) == (None, [])
        for _ in range(2):
            store.keep_spare(b"needed by many", digest)
        assert store.spare(digest) in (b"needed by many", None)
        assert store.spares() in ([digest], [])
        assert store.get_or_spare(digest) == b"needed by many"
        with pytest.raises(NotFoundError):
            store.get_or_spare(sha256(b"absent"))
        with pytest.raises(IntegrityError):
            store.get_or_spare(digest, limit=3)
        with suppress(RefusedError):
            store.remove([digest])
            assert (store.spare(digest), store.spares()) == (None, [])

    def test_nothing_is_set_aside_that_is_not_there(self, store: Store) -> None:
        assert not store.has_quarantine()
        with pytest.raises((NotFoundError, RefusedError)):
            store.set_aside(object_name(sha256(b"absent")), "1")
        assert not store.has_quarantine()

    def test_writers_that_ended_leave_no_litter(self, store: Store) -> None:
        put_bytes(store, b"object")
        store.publish(SPACE, FIRST, b"mine")
        assert list(store.litter()) == []

    def test_syncing_a_log_changes_nothing(self, store: Store) -> None:
        store.sync_log(SPACE)
        assert store.spaces() == []
        store.publish(SPACE, FIRST, b"mine")
        store.sync_log(SPACE)
        assert store.numbers(SPACE) == [1]

    def test_threads_that_race_for_a_number_have_one_winner_and_agree_on_it(
        self, store: Store
    ) -> None:
        rounds = 10
        won: list[tuple[int, bytes]] = []

        def write(writer: int, start: threading.Barrier) -> None:
            for number in range(1, rounds + 1):
                start.wait(timeout=60)
                content = b"%d by %d" % (number, writer)
                if store.publish(SPACE, CommitNumber(number), content):
                    won.append((number, content))

        _race(write)
        assert sorted(won) == [
            (number, store.record(SPACE, CommitNumber(number))) for number in range(1, rounds + 1)
        ]

    def test_threads_that_put_the_same_object_all_succeed(self, store: Store) -> None:
        content = b"shared" * 1000
        were_new: list[bool] = []

        def write(writer: int, start: threading.Barrier) -> None:
            start.wait(timeout=60)
            were_new.append(store.put(content, sha256(content)))

        _race(write)
        assert sorted(were_new) == [False] * (_WRITERS - 1) + [True], "it was new to one of them"
        assert store.get(sha256(content)) == content

    def test_any_sequence_of_writes_gives_what_two_dictionaries_would(
        self, new_store: NewStore
    ) -> None:
        verbs, numbers = st.sampled_from(["put", "publish"]), st.integers(1, 4)

        @_PROPERTY
        @given(writes=st.lists(st.tuples(verbs, numbers, st.binary(max_size=3)), max_size=30))
        def check(writes: list[tuple[str, int, bytes]]) -> None:
            store = new_store()
            objects: dict[Digest, bytes] = {}
            records: dict[int, bytes] = {}
            for verb, number, content in writes:
                if verb == "put":
                    assert store.put(content, sha256(content)) == (sha256(content) not in objects)
                    objects[sha256(content)] = content
                else:
                    assert store.publish(SPACE, CommitNumber(number), content) == (
                        records.setdefault(number, content) == content
                    )
            assert {digest: store.get(digest) for digest, _ in store.objects()} == objects
            assert {
                number: store.record(SPACE, number) for number in store.numbers(SPACE)
            } == records

        check()

    def test_closing_twice_is_fine(self, store: Store) -> None:
        store.close()
        store.close()


def _race(write: Callable[[int, threading.Barrier], None]) -> None:
    start = threading.Barrier(_WRITERS)

    def run(writer: int) -> None:
        try:
            write(writer, start)
        except BaseException:
            start.abort()
            raise

    with ThreadPoolExecutor(_WRITERS) as pool:
        runs = [pool.submit(run, writer) for writer in range(_WRITERS)]
    failures = filter(None, (run.exception() for run in runs))
    # the others only report that the barrier was given up
    for failure in sorted(failures, key=lambda of: isinstance(of, threading.BrokenBarrierError)):
        raise failure
