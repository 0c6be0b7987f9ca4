"""The JSON API of the catalogue: operations, response shapes and OpenAPI document."""
