"""Test which rows train and which are held out, and what the updates of a training are."""

import random

import pytest

from csp_utils.base.subset import place
from csp_utils.results.updates import Updates, updates
from csp_utils.stages.sft import Sft
from csp_utils.stages.simpo import Simpo
from csp_utils.training.rows import choose, key


def rows(names: list[int], folder: str = "a") -> list[dict]:
    return [{"images": [f"{folder}/{i:06d}_c{i % 101:03d}.png"], "messages": i} for i in names]


EVERY = list(range(500))
PAIRS = [i for i in EVERY if i % 101 != 50]  # at c = 50 there is no pair


def names(chosen: list) -> list[int]:
    return [row["messages"] for row in chosen]


def test_without_a_choice_every_row_trains_in_the_order_of_the_file() -> None:
    assert names(choose(rows(EVERY), None, 0.0, 0).training) == EVERY and not choose(rows(EVERY), None, 0.0, 0).held_out
    for n in (500, 501, 10**9):
        assert names(choose(rows(EVERY), n, 0.0, 0).training) == EVERY


def test_some_rows_are_a_random_subset_in_the_order_of_the_file() -> None:
    """Formerly, they were the first rows of the file, which lie in one corner of RLAIF-V."""
    some = names(choose(rows(EVERY), 100, 0.0, 0).training)
    assert len(some) == 100 and some == sorted(some) and 150 < sum(some) / 100 < 350
    assert some != names(choose(rows(EVERY), 100, 0.0, 1).training)
    assert set(some) < set(names(choose(rows(EVERY), 200, 0.0, 0).training))  # a larger n contains the smaller


def test_neither_the_order_nor_the_folder_nor_other_rows_matter() -> None:
    mixed = random.Random(0).sample(EVERY, len(EVERY))
    for share in (0.0, 0.1):
        one, other = choose(rows(EVERY), 90, share, 3), choose(rows(mixed, "/data/b"), 90, share, 3)
        assert set(names(one.training)) == set(names(other.training))
        assert set(names(one.held_out)) == set(names(other.held_out))


@pytest.mark.parametrize("n_rows", [None, 100])
def test_sft_and_simpo_hold_out_the_same_images(n_rows: int | None) -> None:
    """No image that one of them holds out trains in the other, although SimPO has fewer rows."""
    sft, simpo = (choose(rows(which), n_rows, 0.1, 0) for which in (EVERY, PAIRS))
    assert set(names(simpo.held_out)) == set(names(sft.held_out)) & set(PAIRS)
    assert not {*names(sft.training), *names(simpo.training)} & {*names(sft.held_out), *names(simpo.held_out)}
    assert 25 < len(sft.held_out) < 75
    assert n_rows is None or len(sft.training) == len(simpo.training) == 100


def test_images_of_one_row_at_several_levels_stay_together() -> None:
    """A held-out image whose question and object are trained at another level would not be held out."""
    every = [{"images": [f"{i:06d}_c{c:03d}.png"], "messages": i} for i in range(100) for c in (7, 50, 90, 12)]
    chosen = choose(every, 100, 0.2, 0)
    counted = {i: names(chosen.training).count(i) for i in names(chosen.training)}
    assert len(counted) == 25 and set(counted.values()) == {4}
    assert not set(counted) & set(names(chosen.held_out)) and len(chosen.held_out) % 4 == 0


def test_rows_of_one_image_are_divided_by_the_file() -> None:
    assert names(choose(rows([7, 7, 7]), 2, 0.0, 0).training) == [7, 7]


def test_the_place_of_an_image_never_changes() -> None:
    """Results of older runs depend on it."""
    assert key({"images": ["outputs/x/000001_c050.png"]}) == key({"images": ["000001_c007.png"]}) == "000001.png"
    assert f"{place(0, '000001.png', 'subset'):.6f} {place(0, '000001.png', 'held out'):.6f}" == PLACES
    assert all(0 <= place(seed, "x", "subset") < 1 for seed in range(1000))


PLACES = "0.856806 0.012039"


@pytest.mark.parametrize("p, n, size, total, warmup", [
    (Sft(), 32, 16, 2, 0),
    (Sft(processes=4, n_rows=None), 83132, 64, 1299, 0),
    (Simpo(processes=4, n_rows=None), 83132, 64, 1299, 39),
    (Sft(epochs=3), 17, 16, 6, 0),  # the second update of every epoch has one row
    (Simpo(gradient_accumulation_steps=4), 5, 4, 2, 1),
])  # fmt: skip
def test_what_the_updates_are(p: Sft | Simpo, n: int, size: int, total: int, warmup: int) -> None:
    found = updates(p, n)
    assert (found.size, found.total, found.warmup) == (size, total, warmup)


def test_the_line_about_the_updates() -> None:
    assert str(updates(Simpo(processes=4), 83132)) == (
        "83,132 rows; 1 a device x 16 steps x 4 devices = 64 rows an update; 1,299 updates, the first 39 of them "
        "warm up")  # fmt: skip
    assert "none of them warms up" in str(Updates(32, 1, 2, 8, 1, 0.0)) and "1 device =" in str(updates(Sft(), 32))
