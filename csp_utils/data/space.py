"""Compare what fetching writes with the free space of every disk on which it writes."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from csp_utils.data.sources import Source


def takes(source: Source) -> dict[Path, float]:
    """Return folder -> gigabytes that fetching a source writes there.

    What comes from the hub is stored in the hub's cache, and everything else in the source's folder. The catalogue says
    the size of the source alone; if parts of both kinds are in it, that is the hub's. Images that are decoded from
    VLMEvalKit's file come to the source's folder as well: three quarters of the size of their base64 text.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    hub = any("repo" in part for part in source.parts)
    found = {Path(HF_HUB_CACHE) if hub else source.folder: source.gigabytes}
    if any("vlmevalkit" in part for part in source.parts):
        found[source.folder] = found.get(source.folder, 0.0) + 0.75 * source.gigabytes
    return found


def too_full(wanted: Iterable[tuple[Path, float]]) -> Iterator[tuple[Path, float, float]]:
    """Yield (folder, gigabytes wanted, gigabytes free) for every disk that has less free than is wanted on it.

    Args:
        wanted: folders, which need not exist yet, and the gigabytes that are written there.
    """
    places: dict[int, tuple[Path, float]] = {}
    for place, gigabytes in wanted:
        there = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
        disk = there.stat().st_dev
        first, others = places.get(disk, (there, 0.0))
        places[disk] = (first, others + gigabytes)
    for place, gigabytes in places.values():
        free = shutil.disk_usage(place).free / 1e9
        if free < gigabytes:
            yield place, gigabytes, free
