"""The order of the windows, and who reads which."""

import pytest
import torch
from torch.utils.data import RandomSampler

from birnn_forecast.data.shards import SharedOrder


def shares(windows, processes, shuffle=True, seed=1, broadcast=lambda seed: seed):
    """Return what each process reads, all with the same random numbers."""
    found = []
    for rank in range(processes):
        torch.manual_seed(seed)
        found.append(list(SharedOrder(range(windows), processes, rank, shuffle, broadcast)))
    return found


def single(windows, seed=1):
    torch.manual_seed(seed)
    return list(RandomSampler(range(windows)))


@pytest.mark.parametrize(("windows", "processes"), [(12, 2), (12, 3), (5, 1), (30, 4)])
def test_together_they_read_what_one_process_reads_in_its_order(windows, processes):
    together = [window for step in zip(*shares(windows, processes), strict=True) for window in step]
    assert together[:windows] == single(windows)


@pytest.mark.parametrize(("windows", "processes"), [(13, 2), (13, 4), (1, 3), (2, 5)])
def test_what_cannot_be_shared_evenly_starts_over(windows, processes):
    found = shares(windows, processes)
    assert len({len(part) for part in found}) == 1
    together = [window for step in zip(*found, strict=True) for window in step]
    order = single(windows)
    assert together == (order * processes)[: len(together)]
    assert len(together) - windows < processes


def test_a_new_order_in_each_epoch_unless_it_is_not_shuffled():
    torch.manual_seed(0)
    shuffled, plain = (SharedOrder(range(20), 2, 0, shuffle, lambda seed: seed) for shuffle in (True, False))
    assert list(shuffled) != list(shuffled)
    assert list(plain) == list(plain) == [*range(0, 20, 2)]


def test_processes_whose_random_numbers_went_apart_share_the_first_ones_order():
    first: list[int] = []

    def broadcast(seed):
        first.append(seed)
        return first[0]

    torch.manual_seed(3)
    parts = [list(SharedOrder(range(20), 2, rank, True, broadcast)) for rank in range(2)]
    assert len(set(first)) == 2
    assert sorted(parts[0] + parts[1]) == [*range(20)]


@pytest.mark.parametrize(("windows", "processes"), [(13, 2), (13, 4), (12, 3)])
def test_in_validation_every_window_is_read_once(windows, processes):
    parts = [SharedOrder(range(windows), processes, r, False, lambda seed: seed, even=False) for r in range(processes)]
    assert sorted(window for part in parts for window in part) == [*range(windows)]
    assert [len(part) for part in parts] == [len(list(part)) for part in parts]


def test_no_process_is_without_a_window_in_validation():
    assert [list(SharedOrder(range(2), 3, r, False, lambda seed: seed, even=False)) for r in range(3)] == [
        [0],
        [1],
        [0],
    ]
