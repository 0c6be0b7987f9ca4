"""The HTML pages and feeds of the catalogue, one module per kind."""
