"""What it costs to read images in a random order: files, the store of `images: drawn`, and Parquet row groups.

    python benchmarks/random_access.py [FOLDER]

Encoded images of RLAIF-V's mean size (165 kB of random bytes, which no format can compress) are written in three ways
to a temporary folder (in FOLDER, which says which disk) and read in a random order. Times are those of a warm cache.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from csp_utils.data.image_store import ImageStore, write_images  # noqa: E402
from csp_utils.data.rlaif_v import RLAIF_V_SCHEMA, read_rlaif_v  # noqa: E402

SIZE, N, READ = 165_000, 1500, 60


def main(where: str | None) -> None:
    """Print milliseconds an image."""
    import pyarrow as pa

    rng = np.random.default_rng(0)
    files = {f"{i:06d}": rng.bytes(SIZE) for i in range(N)}
    order = [f"{i:06d}" for i in rng.permutation(N)[:READ]]
    text = {"ds_name": "d", "question": "q", "chosen": "a", "rejected": "b", "origin_dataset": "o",
            "origin_split": "s", "idx": 0, "image_path": "x.jpg"}  # fmt: skip
    rows = [text | {"image": {"bytes": file, "path": None}} for file in files.values()]
    with tempfile.TemporaryDirectory(dir=where) as temporary:
        folder = Path(temporary)
        table = pa.Table.from_pylist(rows, schema=RLAIF_V_SCHEMA)
        ways = {}
        for name, file in files.items():
            (folder / name).write_bytes(file)
        ways["a file each"] = lambda name: (folder / name).read_bytes()
        write_images(files.items(), folder / "store.arrow")
        store = ImageStore(folder / "store.arrow")
        ways["the store of images: drawn"] = lambda name: store[name]
        for group in (100, 256, 1500):
            (folder / str(group)).mkdir()
            for copy in ("a", "b"):  # two files, as the reader keeps the last group
                pq.write_table(table, folder / str(group) / f"{copy}.parquet", row_group_size=group)
            ways[f"Parquet, {group} rows a group"] = read_rlaif_v(folder / str(group)).image_bytes
        print("| images are read from | ms an image | more than a file each, ms |\n| --- | --- | --- |")
        base = None
        for way, read in ways.items():
            assert read(order[-1]) == files[order[-1]]
            start = time.perf_counter()
            for number, name in enumerate(order):
                read(f"{int(name) + N * (number % 2):06d}" if way.startswith("Parquet") else name)
            cost = 1000 * (time.perf_counter() - start) / READ
            base = cost if base is None else base
            print(f"| {way} | {cost:.2f} | {cost - base:.2f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
