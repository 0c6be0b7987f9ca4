"""Read clones of layers with the real CloudVolume, in a separate process that tests start.

Arguments: pairs of a folder and a layer's name in the demo. Prints one line of JSON per layer:
whether all scales equal the demo's voxels, and the result of reading a missing chunk.
"""

import json
import sys

import numpy as np
from cloudvolume import CloudVolume
from cloudvolume.exceptions import EmptyVolumeException

from neuromirror_demo.bucket_contents import CELLS, layer_scales
from neuromirror_demo.volumes import FIRST_CELL


def main() -> None:
    arguments = iter(sys.argv[1:])
    for folder, layer in zip(arguments, arguments, strict=True):
        record: dict[str, object] = {"layer": layer}
        same = []
        for mip, scale in enumerate(layer_scales(layer)):
            opened = CloudVolume(f"file://{folder}", mip=mip, fill_missing=True, progress=False)
            same.append(bool(np.array_equal(opened[:][..., 0].T, scale.voxels)))
        record["same"] = same
        try:
            CloudVolume(f"file://{folder}", progress=False)[:]
            record["missing"] = False
        except EmptyVolumeException:
            record["missing"] = True
        if layer == CELLS:
            opened = CloudVolume(f"file://{folder}", progress=False)
            record["vertices"] = len(opened.mesh.get(FIRST_CELL).vertices)
        sys.stdout.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
