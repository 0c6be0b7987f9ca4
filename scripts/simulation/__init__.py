"""Runs the policy of the service on a simulated clock; see ``scripts/simulate --help``."""
