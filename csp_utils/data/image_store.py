"""Store encoded images in one file from which any of them is read at once, whatever the order.

Parquet is read a whole row group at a time: with 1,500 images in a group, one random image costs half a second. Arrow's
file format has small record batches, and the file is memory-mapped, so that an image costs no more than its bytes.
"""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from csp_utils.base.errors import UserError
from csp_utils.base.files import whole_file

BATCH = 64
"""Images in a record batch."""

SCHEMA = pa.schema([("key", pa.string()), ("file", pa.binary())])


def write_images(images: Iterable[tuple[str, bytes]], path: Path | str) -> None:
    """Write (key, encoded image) to one file; an image whose key was written before is skipped."""
    seen: set[str] = set()
    with whole_file(path) as temporary, pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as out:
        batch: list[dict[str, str | bytes]] = []
        for key, file in images:
            if key not in seen:
                seen.add(key)
                batch.append({"key": key, "file": file})
            if len(batch) == BATCH:
                out.write_batch(pa.RecordBatch.from_pylist(batch, SCHEMA))
                batch.clear()
        if batch:
            out.write_batch(pa.RecordBatch.from_pylist(batch, SCHEMA))


class ImageStore:
    """Random access to the images of a file of :func:`write_images`. It is shared by processes that were forked."""

    def __init__(self, path: Path | str) -> None:
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
            keys = [self._file.get_batch(i)["key"].to_pylist() for i in range(self._file.num_record_batches)]
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} cannot be read ({error}); run notebook 03_perturb again.") from error
        self._places = {key: (i, row) for i, batch in enumerate(keys) for row, key in enumerate(batch)}

    def __getitem__(self, key: str) -> bytes:
        """Return an encoded image. Raises KeyError for an unknown key."""
        batch, row = self._places[key]
        return self._file.get_batch(batch)["file"][row].as_py()
