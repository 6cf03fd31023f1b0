"""Evaluation: what a policy writes and how good it is. Nothing here trains."""
