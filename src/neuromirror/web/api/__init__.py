"""The JSON of the catalogue: its addresses, what is answered, and their description."""
