"""Know the training images by their content: a key for each, and whether it is an image of the benchmark."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.progress import Progress, silent
from csp_utils.data.images import image_key

if TYPE_CHECKING:
    from csp_utils.data.overlap import BenchmarkImages
    from csp_utils.data.rlaif_v import RlaifV


def image_keys(data: "RlaifV", benchmark: "BenchmarkImages | None", progress: Progress = silent) -> pd.DataFrame:
    """Read every image once, in order, and return its key.

    Returns:
        row_id, image_sha1 (null for a row without an image), in_benchmark (True, False, or null if it cannot be told;
        null everywhere without ``benchmark``).
    """
    found: list[tuple[str, str | None, bool | None]] = []
    known: dict[tuple[str, Any], bool | None] = {}  # many rows share an image
    rows = zip(data.rows["row_id"], data.rows["image_path"], strict=True)
    for row_id, image_path in progress(list(rows), "keys of the images", unit="image"):
        try:
            file = data.image_bytes(row_id)
        except UserError:
            found.append((row_id, None, None))
            continue
        key = (image_key(file), image_path)
        if benchmark is not None and key not in known:
            known[key] = benchmark.shows(file, image_path)
        found.append((row_id, key[0], known.get(key)))
    table = pd.DataFrame(found, columns=["row_id", "image_sha1", "in_benchmark"])
    return table.astype({"image_sha1": "string", "in_benchmark": "boolean"})
