"""Volumes behind a cutout API, mirrored as Zarr chunks: the common part of BOSS and ndstore."""
