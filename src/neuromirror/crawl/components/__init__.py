"""Components of a dataset: trees of files that are stored inline, as a subdataset or as a
manifest."""
