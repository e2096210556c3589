"""Encoded images in one file, read in any order; keys by content; subsets that no order changes."""

import random

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rlaif_rows import png, rlaif_row

from csp_utils.base.errors import UserError
from csp_utils.base.subset import subset
from csp_utils.data.image_keys import image_keys
from csp_utils.data.image_store import ImageStore, write_images
from csp_utils.data.rlaif_v import read_rlaif_v, write_rlaif_v


def test_every_image_is_read_in_any_order(tmp_path):
    files = {f"key {i}": random.Random(i).randbytes(i * 37 % 900) for i in range(200)}
    write_images([*files.items(), ("key 3", b"written already")], tmp_path / "store.arrow")
    store = ImageStore(tmp_path / "store.arrow")
    for key in random.Random(0).sample(list(files), 200):
        assert store[key] == files[key]
    with pytest.raises(KeyError):
        store["another"]


def test_a_store_without_images_and_a_damaged_one(tmp_path):
    write_images([], tmp_path / "store.arrow")
    with pytest.raises(KeyError):
        ImageStore(tmp_path / "store.arrow")["x"]
    (tmp_path / "store.arrow").write_bytes(b"half")
    with pytest.raises(UserError, match="store.arrow cannot be read .* run notebook 03_perturb again"):
        ImageStore(tmp_path / "store.arrow")


def test_a_key_tells_images_apart_and_a_benchmark_is_asked_once_an_image(tmp_path):
    images = [png((1, 0, 0)), png((2, 0, 0)), png((1, 0, 0)), b""]
    rows = [rlaif_row(i, image={"bytes": image or None, "path": None}, image_path="a.jpg")
            for i, image in enumerate(images)]  # fmt: skip
    write_rlaif_v(tmp_path / "train.parquet", rows)
    asked = []

    class Benchmark:
        def shows(self, file, image_path):
            asked.append(file)
            return file == images[1] or None

    table = image_keys(read_rlaif_v(tmp_path / "train.parquet"), Benchmark())
    assert table["image_sha1"].nunique() == 2 and table["image_sha1"].isna().tolist() == [False] * 3 + [True]
    assert [None if pd.isna(x) else x for x in table["in_benchmark"]] == [None, True, None, None] and len(asked) == 2
    assert image_keys(read_rlaif_v(tmp_path / "train.parquet"), None)["in_benchmark"].isna().all()


@given(keys=st.lists(st.text(max_size=5), unique=True), n=st.integers(0, 12), seed=st.integers(0, 9))
def test_a_subset_depends_on_no_order_and_grows(keys, n, seed):
    drawn = subset(keys, n, seed)
    assert drawn == sorted(drawn) and len(drawn) == min(n, len(keys))
    chosen = {keys[i] for i in drawn}
    assert chosen == {keys[::-1][i] for i in subset(keys[::-1], n, seed)}
    assert chosen <= {keys[i] for i in subset(keys, n + 1, seed)}
    assert subset(keys, None, seed) == list(range(len(keys)))


def test_subsets_by_seed_and_use_differ():
    keys = [f"{i:06d}" for i in range(1000)]
    drawn = [tuple(subset(keys, 100, seed, use)) for seed in (0, 1) for use in ("subset", "held out")]
    assert len(set(drawn)) == 4 and max(drawn[0]) > 500  # not the first rows
