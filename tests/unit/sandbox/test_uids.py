"""Uids of sandboxes."""

import pytest

from ignite.sandbox.uids import UidPool, UidsExhausted


def test_no_two_at_a_time_are_the_same() -> None:
    pool = UidPool(first=100, size=5)
    assert [pool.take() for _ in range(5)] == [100, 101, 102, 103, 104]
    with pytest.raises(UidsExhausted):
        pool.take()


def test_one_given_back_rests_as_long_as_possible() -> None:
    pool = UidPool(first=100, size=3)
    pool.give_back(pool.take())
    assert [pool.take() for _ in range(3)] == [101, 102, 100]


def test_reserved_ones_are_not_taken() -> None:
    pool = UidPool(first=100, size=2)
    assert pool.reserve(100)
    assert not pool.reserve(0)
    assert pool.take() == 101
