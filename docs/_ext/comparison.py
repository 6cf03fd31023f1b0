"""
`{comparison} TASK` with `:methods:` shows those rows of the comparison's table, read from the page that
`comparison/report.py` writes: no number is copied, and what was not measured is said.
"""

import re
from pathlib import Path

from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective


PAGE = Path(__file__).parent.parent.parent / "comparison" / "README.md"
TITLE = "**At the end of the budget**"


def rows_of(page: str, task: str, methods: list[str]) -> list[str] | None:
    """The head and the rows of some methods of a task's main table; `None` before there is one."""
    section = re.search(f"<!-- {task}:begin -->(.*?)<!-- {task}:end -->", page, re.DOTALL)
    if section is None or TITLE not in section[1]:
        return None
    after = section[1].split(TITLE)[1]
    table = re.search(r"(?:^\|.*\n?)+", after, re.MULTILINE)[0].splitlines()
    return table[:2] + [row for row in table[2:] if row.split("|")[1].strip() in methods]


class Comparison(SphinxDirective):
    required_arguments = 1
    option_spec = {"methods": directives.unchanged_required}

    def run(self):
        task = self.arguments[0]
        self.env.note_dependency(str(PAGE))
        rows = rows_of(PAGE.read_text(encoding="utf-8"), task, self.options["methods"].split())
        if rows is None:
            text = (
                f"*Not measured yet: the comparison of the task “{task}” has no results so far. "
                f"`make comparison TASK={task}` makes them, and this table.*"
            )
            return self.parse_text_to_nodes(text)
        return self.parse_text_to_nodes("\n".join(rows))


def setup(app):
    app.add_directive("comparison", Comparison)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
