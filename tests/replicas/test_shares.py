"""Shares of work."""

import itertools

import numpy as np

from tf_kfgn.replicas import longest_first


def loads(costs, owners, workers):
    return [sum(c for c, o in zip(costs, owners, strict=True) if o == w) for w in range(workers)]


def test_the_busiest_does_at_most_four_thirds_of_the_best_shares():
    generator = np.random.default_rng(0)
    for _ in range(30):
        costs, workers = generator.integers(1, 30, size=6).tolist(), 3
        found = max(loads(costs, longest_first(costs, workers), workers))
        every = itertools.product(range(workers), repeat=len(costs))
        best = min(max(loads(costs, owners, workers)) for owners in every)
        assert best <= found <= 4 / 3 * best


def test_the_dearest_are_given_away_first():
    assert longest_first([1, 4, 3, 2], 2) == [0, 0, 1, 1]


def test_there_may_be_more_workers_than_work():
    assert sorted(longest_first([1.0, 1.0], 4)) == [0, 1]
    assert longest_first([], 2) == []
