"""Keep copies of pinned content in vaults, check them, and restore from them."""
