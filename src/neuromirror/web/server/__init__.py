"""The server of the catalogue: files, headers, compression, caching and timeouts."""
