"""
The queries of the measurements that no dataset has as they are: `python recipes/guides/queries.py sums|openings|posts
OUT.jsonl [SOURCE]`. Sums are word problems with their answer, openings are those of the quickstart's reviews, posts
are those of a local copy of TL;DR (SOURCE, .jsonl.gz) with their summary as `reference`.
"""

import gzip
import json
import random
import sys
from importlib.resources import files
from pathlib import Path


def sums(count: int = 64) -> list[dict]:
    draw = random.Random(0)
    rows = []
    for _ in range(count):
        first, second, third = (draw.randint(2, 12) for _ in range(3))
        things, name = draw.choice(["apples", "books", "coins", "pens"]), draw.choice(["Ana", "Ben", "Mia", "Tom"])
        text = f"{name} has {first} {things}, gets {second} more and then gives away {min(third, first)}. "
        text += f"How many {things} does {name} have now?"
        answer = first + second - min(third, first)
        rows.append({"prompt": [{"role": "user", "content": text}], "answer": answer})
    return rows


def openings() -> list[dict]:
    text = files("trl_negalign.scripts").joinpath("quickstart_queries.txt").read_text(encoding="utf-8")
    return [{"prompt": line} for line in text.splitlines()]


def posts(source: str) -> list[dict]:
    with gzip.open(source, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [{"prompt": [{"role": "user", "content": row["prompt"]}], "reference": row["completion"]} for row in rows]


if __name__ == "__main__":
    kind, out, *source = sys.argv[1:]
    rows = {"sums": sums, "openings": openings, "posts": posts}[kind](*source)
    Path(out).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
