"""The mask of a Segmentation, pixel by pixel, against the label map that it was made of.

Numbers and references can all be right while the mask is mirrored in each frame or lies one slice off.
"""

from __future__ import annotations

import numpy as np

from dicom_node.check.findings import Found
from dicom_node.check.frames import frame_size, frames_of, masks, pixel_problem, source_plane, summed_up
from dicom_node.check.objects import ResultFile, Sources


def check_mask(result: ResultFile, sources: Sources, found: Found) -> list[str]:
    """Every frame is the label map's plane of its source image, and no plane with a voxel is left out."""
    if not sources.headers or pixel_problem(result):
        return []  # nothing to find a plane by; said elsewhere
    label_map, name = found.label_map, result.name
    order = sources.stacked if found.frames is None else found.frames
    if order is None:
        return [f"{name}: the findings cannot be laid over the source images, some of which have no place in space"]
    if len(order) != len(label_map):
        return [f"{name}: the findings have {len(label_map)} slices, the source images are {len(order)}"]
    if unknown := [f"{uid} (frame {n})" for uid, n in order if (uid, n) not in sources.planes]:
        return [f"{name}: the findings are of the image {unknown[0]}, which is no source image"]
    if frame_size(result.ds) != label_map.shape[1:]:
        return [f"{name}: a frame has {frame_size(result.ds)} pixels, a slice of the findings {label_map.shape[1:]}"]
    plane_of = {key: plane for plane, key in enumerate(order)}
    wrong, seen = [], set()
    for index, frame, number, mask in masks(result):
        key = source_plane(frame)
        if key not in plane_of or not isinstance(number, int):
            continue  # said elsewhere
        seen.add((plane_of[key], number))
        differ = np.count_nonzero(mask != (label_map[plane_of[key]] == number))
        if differ:
            wrong.append(
                f"{name}: frame {index + 1} differs in {differ} pixels from segment {number} "
                f"of the findings on the image {key[0]}"
            )
    problems = [summed_up(wrong)] if wrong else []
    wanted = {(k, int(n)) for k, plane in enumerate(label_map) for n in np.flatnonzero(np.bincount(plane.ravel())) if n}
    missing = sorted(wanted - seen)
    if missing:
        plane, number = missing[0]
        more = f"; so do {len(missing) - 1} more" if len(missing) > 1 else ""
        problems.append(
            f"{name}: segment {number} of the findings on the image {order[plane][0]} lacks its frame{more} "
            f"({len(frames_of(result.ds))} frames are there)"
        )
    return problems
