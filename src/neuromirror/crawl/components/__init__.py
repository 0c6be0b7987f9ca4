"""Components of a dataset: stored inline, as a subdataset or as a manifest."""
