"""The JSON of a BOSS: resources (bosscore/serializers.py), lists and levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuromirror_demo.boss.cuboids import SIZE
from neuromirror_demo.boss.errors import BossError, Code
from neuromirror_demo.boss.records import (
    BossChannel,
    BossCollection,
    BossExperiment,
    CoordinateFrame,
)
from neuromirror_demo.volumes import coarser_box

Json = dict[str, Any]

OWNER = "demo"
"""The owner of all resources."""

PUBLIC = "public"
"""The public user."""

ANONYMOUS = ""


def readable(resource: BossCollection | BossExperiment | BossChannel, user: str) -> bool:
    """Return whether the user may read a resource."""
    return resource.public or user == OWNER


def names(
    held: Mapping[str, BossExperiment] | Mapping[str, BossChannel], whole: bool, user: str
) -> list[str]:
    """Return the names of resources that are not deleted; with ``whole`` also unreadable ones."""
    found: Mapping[str, Any] = held
    return [
        name for name, one in found.items() if not one.deleted and (whole or readable(one, user))
    ]


def collection_document(one: BossCollection, user: str) -> Json:
    """Return the JSON of a collection."""
    return {
        "name": one.name,
        "public": one.public,
        "description": one.description,
        "experiments": names(one.experiments, one.public or user == OWNER, user),
        "creator": OWNER,
    }


def frame_document(one: CoordinateFrame) -> Json:
    """Return the JSON of a coordinate frame."""
    axes = "xyz"
    ends = {
        f"{axis}_{end}": getattr(one, end)[at]
        for at, axis in enumerate(axes)
        for end in ("start", "stop")
    }
    sizes = {f"{axis}_voxel_size": float(one.voxel[at]) for at, axis in enumerate(axes)}
    about = {"name": one.name, "description": one.description}
    return {**about, **ends, **sizes, "voxel_unit": one.unit}


def experiment_document(collection: str, one: BossExperiment, user: str) -> Json:
    """Return the JSON of an experiment; that of a public one names private channels too."""
    return {
        "channels": names(one.channels, one.public or user == OWNER, user),
        "name": one.name,
        "public": one.public,
        "description": one.description,
        "collection": collection,
        "coord_frame": one.frame.name,
        "num_hierarchy_levels": one.levels,
        "hierarchy_method": one.method,
        "num_time_samples": one.samples,
        "time_step": one.time_step,
        "time_step_unit": one.time_step_unit,
        "creator": OWNER,
    }


def channel_document(experiment: BossExperiment, one: BossChannel) -> Json:
    """Return the JSON of a channel; deleted sources and related channels are left out."""
    there = names(experiment.channels, True, OWNER)
    return {
        "name": one.name,
        "public": one.public,
        "description": one.description,
        "experiment": experiment.name,
        "default_time_sample": one.default_time_sample,
        "type": one.kind,
        "base_resolution": one.base_resolution,
        "datatype": one.datatype,
        "creator": OWNER,
        "sources": [name for name in one.sources if name in there],
        "downsample_status": one.downsample_status,
        "related": [name for name in one.related if name in there],
        "storage_type": one.storage_type,
        "bucket": one.bucket,
        "cv_path": one.cv_path,
    }


def levels_document(experiment: BossExperiment, channel: BossChannel) -> Json:
    """Return the levels of a channel (spdb/project/resource.py).

    Extents are halved from the frame's stop, and rounded up. Upstream refuses frames whose voxels
    are not square, because it also looks for the level at which they are nearest to cubes.
    """
    x, y, _ = experiment.frame.voxel
    if experiment.method == "anisotropic" and x != y:
        raise BossError(
            "Error while getting downsampled voxel dimensions: X voxel size != Y voxel size. "
            "Currently unable to determine isotropic level",
            Code.BOSS_SYSTEM_ERROR,
        )
    voxel, extent = list(experiment.frame.voxel), experiment.frame.stop
    voxels, extents = {"0": [float(one) for one in voxel]}, {"0": list(extent)}
    for level in range(1, experiment.levels):
        voxel = [one * by for one, by in zip(voxel, experiment.factor, strict=True)]
        _, extent = coarser_box((0, 0, 0), extent, experiment.factor)
        voxels[str(level)], extents[str(level)] = [float(one) for one in voxel], list(extent)
    return {
        "status": channel.downsample_status,
        "num_hierarchy_levels": experiment.levels,
        "voxel_size": voxels,
        "extent": extents,
        "cuboid_size": {str(level): list(SIZE) for level in range(experiment.levels)},
    }
