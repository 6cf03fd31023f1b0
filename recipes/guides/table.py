"""The table of README.md: `python recipes/guides/table.py` reads the measurements beside it, one JSON file a guide."""

import json
from pathlib import Path


def interval(found: dict, digits: int) -> str:
    return f"{found['value']:+.{digits}f} [{found['low']:+.{digits}f}, {found['high']:+.{digits}f}]"


def rows(name: str, results: dict) -> list[list[str]]:
    reward = " + ".join(part.rsplit(".", 1)[-1] for part in results["settings"]["rewards"])
    plain = f"{results['plain']['reward']['value']:.3f}"
    found = []
    for one in results["measured"]:
        first = [f"`@{name}`", f"`{reward}`", plain] if not found else ["", "", ""]
        numbers = [interval(one["difference"], 3), f"{one['distance']['value']:.2f}", f"{one['tokens']['value']:.1f}"]
        numbers += [f"{one['repeated']['value']:.3f}", f"{one['copied']['value']:.3f}"]
        found.append([*first, one["kind"], one["placement"], one["verdict"], *numbers])
    return found


def table(folder: Path) -> str:
    header = ["guide", "reward", "plain", "kind", "place", "verdict", "reward − plain", "nats per token", "tokens"]
    header += ["repeats", "copies"]
    lines = [header, ["---"] * len(header)]
    for path in sorted(folder.glob("*.json")):
        lines += rows(path.stem, json.loads(path.read_text(encoding="utf-8")))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    print(table(Path(__file__).parent), end="")  # noqa: T201
