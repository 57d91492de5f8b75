from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgray.errors import ConfigError, DataError
from fgray.training import order as module
from fgray.training.order import Order, largest_remainder, mix


def passes(order: Order, steps: int) -> dict[tuple[int, int], list[int]]:
    """Return (source, epoch) -> samples in the order in which the steps saw them."""
    found: dict[tuple[int, int], list[int]] = {}
    for step in range(steps):
        for source, sample, epoch in zip(*(column.tolist() for column in order.samples(step)), strict=True):
            found.setdefault((source, epoch), []).append(sample)
    return found


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0.5, 4)), min_size=1, max_size=3),
    st.integers(8, 24),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_a_pass_sees_every_sample_once(parts: list, batch: int, seed: int, sharded: bool) -> None:
    sizes = [size for size, _ in parts]
    groups = [np.random.default_rng(seed).integers(0, 5, size) for size in sizes] if sharded else None
    order = Order(sizes, [share for _, share in parts], batch, seed, groups)
    steps = 12
    found = passes(order, steps)
    for source, (size, count) in enumerate(zip(sizes, order.counts, strict=True)):
        whole, rest = divmod(steps * count, size)
        for epoch in range(whole):
            assert sorted(found[source, epoch]) == list(range(size))
        assert len(set(found.get((source, whole), []))) == rest  # the pass that is under way repeats nothing either
        assert (source, whole + 1) not in found


def test_a_step_does_not_depend_on_what_was_asked_before() -> None:
    def fresh() -> Order:
        return Order([50, 7], [3, 1], 8, 3, [np.arange(50) // 10, None])

    straight = [fresh().samples(step) for step in range(40)]
    one = fresh()
    for step in np.random.default_rng(0).permutation(40):
        for ours, theirs in zip(one.samples(int(step)), straight[step], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_order_is_written_down() -> None:
    # Runs resume on other machines and versions: these numbers must never change.
    source, sample, epoch = Order([10, 4], [2, 1], 6, 7, [np.arange(10) // 4, None]).samples(2)
    assert source.tolist() == [0, 1, 0, 0, 1, 0]
    assert sample.tolist() == [9, 1, 5, 0, 0, 3]
    assert epoch.tolist() == [0, 1, 0, 1, 1, 1]


def test_orders_differ_by_epoch_seed_and_source_and_are_no_identity() -> None:
    size = 400
    orders = [passes(Order([size, size], [1, 1], 80, seed), 20) for seed in (0, 1)]
    lines = [np.array(found[key]) for found in orders for key in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for i, one in enumerate([np.arange(size), *lines]):
        for other in lines[i:]:
            assert (one == other).sum() < 8  # expected: 1; above 7 with a probability of 1e-5
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.2  # four standard errors of 1/sqrt(400)


def test_places_are_uniform() -> None:
    """Chi-square of where each of 10 samples stands over 2000 passes: 81 degrees of freedom."""
    order = Order([10], [1], 10, 5)
    counts = np.zeros((10, 10))
    for step in range(2000):
        counts[order.samples(step)[1], np.arange(10)] += 1
    assert 45 < ((counts - 200) ** 2 / 200).sum() < 130  # beyond with a probability below 1e-3 each


def test_shards_stay_together_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_ROWS", 20)
    shards = np.random.default_rng(0).permutation(np.arange(100) // 10)  # ten shards of ten rows
    line = np.array(passes(Order([100], [1], 10, 0, [shards]), 10)[0, 0])
    seen = shards[line].reshape(5, 20)
    groups = [frozenset(row.tolist()) for row in seen]
    assert [len(group) for group in groups] == [2] * 5 and len(frozenset().union(*groups)) == 10
    assert any(Counter(row[:10].tolist()) != {row[0]: 10} for row in seen)  # rows of a group's shards are mixed
    other = np.array(passes(Order([100], [1], 10, 1, [shards]), 10)[0, 0])
    assert {frozenset(row.tolist()) for row in shards[other].reshape(5, 20)} != set(groups)  # and the groups are drawn anew


def test_sources_alternate_so_that_every_slice_has_its_part() -> None:
    order = Order([1000, 1000, 1000], [2, 1, 1], 64, 0)
    assert order.counts == [32, 16, 16]
    source = order.samples(0)[0]
    for part in source.reshape(4, 16):
        assert all(abs(count - expected) <= 1 for count, expected in zip(np.bincount(part, minlength=3), (8, 4, 4), strict=True))


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(1, 500))
def test_largest_remainder(shares: list[float], count: int) -> None:
    places = largest_remainder(shares, count)
    assert sum(places) == count
    for place, share in zip(places, shares, strict=True):
        assert abs(place - count * share / sum(shares)) < 1 + 1e-6


def test_largest_remainder_by_hand() -> None:
    assert largest_remainder([1, 1, 1], 10) == [4, 3, 3]
    assert largest_remainder([0.5, 0.3, 0.2], 7) == [4, 2, 1]  # 3.5, 2.1, 1.4


def test_length() -> None:
    order = Order([10, 3], [3, 1], 4, 0)
    assert order.steps_per_epoch == pytest.approx(10 / 3)
    assert [order.steps(epochs) for epochs in (0.3, 1, 3, 0.1)] == [1, 4, 10, 1]
    assert Order([7], [1], 1, 0).steps(0.1 + 0.2) == 3  # 2.1 samples


def test_millions_of_samples_are_arrays() -> None:
    size = 2_000_000
    order = Order([size], [1], 4096, 0)
    source, sample, epoch = order.samples(size // 4096)  # ends the first pass, begins the second
    assert set(epoch.tolist()) == {0, 1} and len(source) == 4096 and sample.max() < size
    assert sum(line.nbytes for line in order._passes.values()) == 2 * 4 * size


def test_mix_is_splitmix64() -> None:
    """The first outputs of SplitMix64 seeded with 0, from its published test vectors, are the chain's first steps."""
    assert int(mix(0)[0]) == 0xE220A8397B1DCDAF
    assert len(set(mix(1, 2, np.arange(1000)).tolist())) == 1000
    assert int(mix(1, 2)[0]) != int(mix(2, 1)[0])


@pytest.mark.parametrize(
    ("sizes", "shares", "batch", "kind", "text"),
    [([5, 5], [1, 100], 10, ConfigError, "share of source 1 is less than one sample"), ([5, 0], [1, 1], 4, DataError, "source 2 has no")],
)
def test_what_is_refused(sizes, shares, batch, kind, text) -> None:
    with pytest.raises(kind, match=text):
        Order(sizes, shares, batch, 0)
