"""Vaults: places where a lab holds copies of content. Import from the modules."""
