"""Open OME-Zarrs with napari and with ome-zarr, and write their levels: ``URL NPZ URL NPZ ...``."""

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np


def napari(address: str) -> Iterable[Any]:
    """Return the levels that napari shows after its reader has opened the image."""
    from napari.components import ViewerModel
    from npe2 import PluginManager

    PluginManager.instance().discover()
    viewer = ViewerModel()
    viewer.open(address, plugin="napari-ome-zarr")
    (layer,) = viewer.layers
    return layer.data if layer.multiscale else [layer.data]


def ome_zarr(address: str) -> Iterable[Any]:
    """Return the levels that ome-zarr reads."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    location = parse_url(address)
    assert location is not None, address
    (node,) = Reader(location)()
    return node.data


if __name__ == "__main__":
    for address, result in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        found = {
            f"{reader.__name__}{number}": np.asarray(level)
            for reader in (napari, ome_zarr)
            for number, level in enumerate(reader(address))
        }
        np.savez(result, **found)
