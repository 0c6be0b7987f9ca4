"""Write a recording with SpikeInterface, or read some: ``write FOLDER``, ``read URL NPZ ...``."""

import sys

import numpy as np
import spikeinterface
from probeinterface import generate_linear_probe


def write(folder: str) -> None:
    """Write a Zarr as AIND's pipelines do: several segments, chunks of some channels, a probe."""
    noise = np.random.default_rng(22)
    traces = [noise.integers(-2000, 2000, (rows, 8), dtype="int16") for rows in (30_000, 12_345)]
    recording = spikeinterface.NumpyRecording(traces, 30_000.0)
    probe = generate_linear_probe(8)
    probe.set_device_channel_indices(np.arange(8))
    recording.set_probe(probe)
    recording.set_channel_gains(np.linspace(0.1, 0.8, 8))
    recording.save(format="zarr", folder=folder, channel_chunk_size=4, chunk_duration="0.3s")


def read(address: str, result: str) -> None:
    """Write the samples, and what SpikeInterface knows about the channels."""
    options = {"simple_links": True} if address.startswith("http") else None
    recording = spikeinterface.read_zarr(address, storage_options=options)
    segments = range(recording.get_num_segments())
    np.savez(
        result,
        channels=recording.get_channel_ids(),
        positions=recording.get_channel_locations(),
        gains=recording.get_channel_gains(),
        part=recording.get_traces(1, 8_900, 9_100, channel_ids=recording.get_channel_ids()[[2, 5]]),
        **{f"traces{segment}": recording.get_traces(segment) for segment in segments},
    )


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        for address, result in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
            read(address, result)
