"""REINFORCE with weights by sign: W-REINFORCE, NSR and PSR (arXiv 2506.01347), TOPR (2503.14286), NFT (2505.18116)."""
