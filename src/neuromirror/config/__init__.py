"""Mirror files: one TOML file per mirror, checked when it is loaded."""
