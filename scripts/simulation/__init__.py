"""Run the service's scheduling policy on a simulated clock; see ``scripts/simulate --help``."""
