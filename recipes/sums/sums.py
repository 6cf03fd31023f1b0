"""
Sums of one- and two-digit numbers, with their answer, and a reward that reads the first integer of a completion:
`python recipes/sums/sums.py runs/sums/data [ROWS]` writes the training split, seeded.
"""

import json
import random
import re
import sys
from pathlib import Path


def rows(count: int = 512) -> list[dict]:
    draw = random.Random(0)
    pairs = [(draw.randint(1, 9), draw.randint(1, 29)) for _ in range(count)]
    return [{"prompt": f"Question: What is {a} + {b}?\nAnswer:", "answer": a + b} for a, b in pairs]


def right(completions, answer, **kwargs) -> list[float]:
    """1 where the first integer of a completion is the answer, 0 elsewhere."""
    found = [re.search(r"-?\d+", text) for text in completions]
    return [float(match is not None and int(match[0]) == value) for match, value in zip(found, answer, strict=True)]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) + "\n" for row in rows(*map(int, sys.argv[2:3]))]
    (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")
