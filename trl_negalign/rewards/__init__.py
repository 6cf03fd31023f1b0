"""Reward functions that can be named in a configuration."""
