"""What every store must do.

A store's own test module subclasses `StoreConformance` and provides `new_store`.
"""

import threading
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from share_registry.errors import IntegrityError, InvalidInputError, NotFoundError
from share_registry.format.canonical import sha256
from share_registry.format.records import parse_format
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.store.protocol import MAX_NUMBER, MAX_RECORD_BYTES, Store

NewStore = Callable[[], Store]

ONE: Final = CommitNumber(1)
SPACE: Final = SpaceName("base")
EVIL_NAMES: Final = (
    *(
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc",
        "a\\b",
        "a\x00b",
        "a\nb",
        "A",
        "é",
        "-a",
        ".a",
        "_a",
        "a..b",
        "a.",
        "con",
        "nul.txt",
        "com1",
        "lpt9.a",
    ),
    *("a" * 65, "a b", "a%2fb", "a:b", "~", "*", "a?", "\u202ea", "ａ", "a\u0301"),
)
EVIL_DIGESTS: Final = (
    "",
    "0" * 63,
    "0" * 65,
    "A" * 64,
    "g" * 64,
    "../" + "0" * 61,
    "0" * 63 + "/",
    "0" * 63 + "\n",
    "\u0660" * 64,
    "/" + "0" * 63,
)
_PROPERTY: Final = settings(max_examples=40, deadline=None)


def kept(store: Store, content: bytes) -> Digest:
    """Put some bytes and return their digest."""
    digest = sha256(content)
    store.put(content, digest)
    return digest


class StoreConformance:
    """The suite.

    Subclasses override `new_store`: a function that makes an empty store at each call.
    """

    @pytest.fixture
    def new_store(self) -> NewStore:
        raise NotImplementedError

    @pytest.fixture
    def store(self, new_store: NewStore) -> Store:
        return new_store()

    def test_format_names_the_store(self, new_store: NewStore) -> None:
        one, other = new_store(), new_store()
        assert parse_format(one.format_bytes()).store == one.identity
        assert one.identity != other.identity

    def test_an_object_comes_back_byte_for_byte(self, new_store: NewStore) -> None:
        @_PROPERTY
        @given(content=st.binary(max_size=5000))
        def check(content: bytes) -> None:
            store = new_store()
            digest = kept(store, content)
            assert store.get(digest) == content
            assert store.has(digest)
            assert store.size(digest) == len(content)

        check()

    def test_an_object_of_several_mebibytes_comes_back(self, store: Store) -> None:
        content = bytes(range(256)) * (3 << 12) + b"end"
        assert store.get(kept(store, content)) == content

    def test_put_tells_whether_the_object_was_new(self, store: Store) -> None:
        content = b"weights"
        assert store.put(content, sha256(content))
        assert not store.put(content, sha256(content))
        assert store.get(sha256(content)) == content

    def test_put_refuses_a_digest_of_other_bytes(self, store: Store) -> None:
        with pytest.raises(InvalidInputError):
            store.put(b"one", sha256(b"other"))
        assert list(store.objects()) == []

    def test_a_missing_object_is_not_found(self, store: Store) -> None:
        digest = sha256(b"never put")
        assert not store.has(digest)
        assert store.size(digest) is None
        with pytest.raises(NotFoundError):
            store.get(digest)

    def test_get_keeps_to_the_limit_it_is_given(self, store: Store) -> None:
        digest = kept(store, b"12345")
        assert store.get(digest, limit=5) == b"12345"
        with pytest.raises(IntegrityError):
            store.get(digest, limit=4)

    @pytest.mark.parametrize("text", EVIL_DIGESTS)
    def test_what_is_no_digest_is_refused_everywhere(self, store: Store, text: str) -> None:
        digest = Digest(text)
        calls: list[Callable[[], object]] = [
            lambda: store.get(digest),
            lambda: store.has(digest),
            lambda: store.size(digest),
            lambda: store.put(b"", digest),
        ]
        for call in calls:
            with pytest.raises(InvalidInputError):
                call()

    @pytest.mark.parametrize("text", EVIL_NAMES)
    def test_what_is_no_space_name_is_refused_everywhere(self, store: Store, text: str) -> None:
        space = SpaceName(text)
        calls: list[Callable[[], object]] = [
            lambda: store.publish(space, ONE, b"{}"),
            lambda: store.record(space, ONE),
            lambda: store.numbers(space),
        ]
        for call in calls:
            with pytest.raises(InvalidInputError):
                call()
        assert store.spaces() == []

    @pytest.mark.parametrize("number", [0, -1, MAX_NUMBER + 1, 10**20])
    def test_a_number_out_of_range_is_refused(self, store: Store, number: int) -> None:
        with pytest.raises(InvalidInputError):
            store.publish(SPACE, CommitNumber(number), b"{}")
        with pytest.raises(InvalidInputError):
            store.record(SPACE, CommitNumber(number))

    def test_a_number_is_given_once(self, store: Store) -> None:
        assert store.publish(SPACE, ONE, b"mine")
        assert not store.publish(SPACE, ONE, b"theirs")
        assert store.record(SPACE, ONE) == b"mine"

    def test_publishing_the_same_bytes_again_is_a_success(self, store: Store) -> None:
        assert store.publish(SPACE, ONE, b"mine")
        assert store.publish(SPACE, ONE, b"mine")

    def test_a_missing_record_is_none(self, store: Store) -> None:
        assert store.record(SPACE, ONE) is None
        store.publish(SPACE, ONE, b"{}")
        assert store.record(SPACE, CommitNumber(2)) is None
        assert store.record(SpaceName("other"), ONE) is None

    def test_the_first_of_some_numbers_that_has_a_record_is_found(self, store: Store) -> None:
        asked = [CommitNumber(number) for number in (9, 4, 2)]
        assert store.first_record(SPACE, asked) is None
        for number in (1, 2, 4):
            store.publish(SPACE, CommitNumber(number), b"{}")
        assert store.first_record(SPACE, asked) == 4
        assert store.first_record(SpaceName("other"), asked) is None

    def test_numbers_and_spaces_are_listed_in_order(self, store: Store) -> None:
        for space in ("b", "a.1", "a"):
            for number in (1, 2, 10, 3):
                store.publish(SpaceName(space), CommitNumber(number), b"{}")
        assert (
            store.spaces()
            == store.spaces(known=[SpaceName("b"), SpaceName("gone")])
            == ["a", "a.1", "b"]
        )
        assert store.numbers(SpaceName("a")) == [1, 2, 3, 10]
        assert store.numbers(SpaceName("c")) == []

    def test_a_record_has_a_limit(self, store: Store) -> None:
        with pytest.raises(InvalidInputError):
            store.publish(SPACE, ONE, bytes(MAX_RECORD_BYTES + 1))
        assert store.publish(SPACE, ONE, bytes(MAX_RECORD_BYTES))
        assert store.record(SPACE, ONE) == bytes(MAX_RECORD_BYTES)

    def test_objects_are_listed_once_each_with_their_size(self, store: Store) -> None:
        contents = [bytes([n]) * n for n in range(20)]
        for content in [*contents, *contents]:
            kept(store, content)
        assert list(store.objects()) == sorted(
            (sha256(content), len(content)) for content in contents
        )

    def test_a_store_that_was_only_used_through_the_protocol_has_no_strays(
        self, store: Store
    ) -> None:
        kept(store, b"object")
        kept(store, b"object")
        store.publish(SPACE, ONE, b"mine")
        store.publish(SPACE, ONE, b"theirs")
        assert list(store.strays()) == []

    def test_syncing_a_log_changes_nothing(self, store: Store) -> None:
        store.sync_log(SPACE)
        assert store.spaces() == []
        store.publish(SPACE, ONE, b"mine")
        store.sync_log(SPACE)
        assert store.numbers(SPACE) == [1]

    def test_threads_that_race_for_a_number_have_one_winner_and_agree_on_it(
        self, store: Store
    ) -> None:
        writers, rounds = 6, 10
        start = threading.Barrier(writers)
        won: list[tuple[int, bytes]] = []

        def write(writer: int) -> None:
            for number in range(1, rounds + 1):
                start.wait(timeout=60)
                content = b"%d by %d" % (number, writer)
                if store.publish(SPACE, CommitNumber(number), content):
                    won.append((number, content))

        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert sorted(won) == [
            (number, store.record(SPACE, CommitNumber(number))) for number in range(1, rounds + 1)
        ]

    def test_threads_that_put_the_same_object_all_succeed(self, store: Store) -> None:
        content = b"shared" * 1000
        start = threading.Barrier(6)
        results: list[bool] = []

        def write() -> None:
            start.wait(timeout=60)
            results.append(store.put(content, sha256(content)))

        threads = [threading.Thread(target=write) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert sorted(results) == [False] * 5 + [True]
        assert store.get(sha256(content)) == content

    def test_any_sequence_of_writes_gives_what_two_dictionaries_would(
        self, new_store: NewStore
    ) -> None:
        @_PROPERTY
        @given(
            steps=st.lists(
                st.tuples(
                    st.sampled_from(["put", "publish"]), st.integers(1, 4), st.binary(max_size=3)
                ),
                max_size=30,
            )
        )
        def check(steps: list[tuple[str, int, bytes]]) -> None:
            store = new_store()
            objects: dict[Digest, bytes] = {}
            records: dict[int, bytes] = {}
            for verb, number, content in steps:
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
