"""
Built pages load nothing from elsewhere: no script, style, picture, font or frame with an address outside the folder.

    python docs/check_pages.py build/docs
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path


LOADING = {"src", "srcset", "poster", "data"}
ELSEWHERE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
IN_STYLE = re.compile(r"(?:url\(|@import)\s*['\"]?\s*((?:https?:)?//[^'\")\s]+)", re.IGNORECASE)


class Loads(HTMLParser):
    """Collects the addresses that a browser would ask for by itself."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            loads = name in LOADING or (tag == "link" and name == "href")
            if loads and value and ELSEWHERE.match(value):
                self.found.append(f"<{tag} {name}={value}>")
            if name == "style" and value:
                self.found += IN_STYLE.findall(value)


def loaded_from_elsewhere(folder: Path) -> list[str]:
    """`FILE: what it loads` of every page and style sheet."""
    found = []
    for path in sorted(folder.rglob("*.html")):
        parser = Loads()
        text = path.read_text(encoding="utf-8")
        parser.feed(text)
        styles = IN_STYLE.findall("".join(re.findall(r"<style.*?</style>", text, re.DOTALL)))
        found += [f"{path.relative_to(folder)}: {what}" for what in parser.found + styles]
    for path in sorted(folder.rglob("*.css")):
        found += [f"{path.relative_to(folder)}: {what}" for what in IN_STYLE.findall(path.read_text(encoding="utf-8"))]
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    pages = list(folder.rglob("*.html"))
    if not pages:
        sys.exit(f"{folder} holds no pages. Run `make docs` first.")
    found = loaded_from_elsewhere(folder)
    if found:
        sys.exit("loaded from elsewhere:\n" + "\n".join(found))
    print(f"{len(pages)} pages, nothing loaded from elsewhere.")


if __name__ == "__main__":
    main()
