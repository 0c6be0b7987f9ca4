"""Mirror files: one TOML file per mirror, validated when it is loaded."""
