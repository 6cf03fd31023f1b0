"""Evaluation: what a policy writes and how good it is. Nothing here trains."""

# what `negalign evaluate` measures
METRICS = ("ppl", "reward", "bleu", "win_rate", "diversity", "length", "kl")
