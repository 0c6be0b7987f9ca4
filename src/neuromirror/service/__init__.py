"""The service: a clock, leases, workers, and what an operator sees of them."""
