"""Evaluation: what a policy writes and how good it is. Nothing here trains."""

# what `negalign evaluate` measures
METRICS = ("ppl", "reward", "bleu", "win_rate", "diversity", "length", "kl")
# queries below which no error and no interval is printed: a bootstrap of so few covers the truth too rarely
FEWEST = 10
