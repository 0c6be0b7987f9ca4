"""The service: scheduling, leases, workers, and their status for operators."""
