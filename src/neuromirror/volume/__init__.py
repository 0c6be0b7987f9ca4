"""Volumes as arrays: opened, cut out, and fetched block by block."""
