"""Likelihood-ratio heads (Likra, arXiv 2503.14391): training them, scoring with them, and the reward made of them."""
