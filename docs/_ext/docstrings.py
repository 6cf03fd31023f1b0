"""
The docstrings' Markdown, as TRL writes it, turned into the reStructuredText that autodoc reads: code in single
backticks, links to names in brackets, fenced examples, and lists of arguments under `Args:`, `Returns:` and the like.
"""

import re


SECTIONS = {"Args", "Parameters", "Returns", "Raises", "Yields"}
SECTION = re.compile(rf"^({'|'.join(SECTIONS)}):$")
ITEM = re.compile(r"(-|\d+\.) ")
ENTRY = re.compile(r"^(?P<name>[\w*]+(?:, [\w*]+)*)(?: \((?P<type>.+?)\))?:(?P<text> .*)?$")
INLINE = re.compile(
    r"``.+?``"  # already code
    r"|\[`~?(?P<name>[^`\]]+)`\]"  # [`Name`], [`~module.Name`]
    r"|\[(?P<text>[^`\]]+)\]\((?P<link>[^)\s]+)\)"  # [text](address)
    r"|`(?P<code>[^`]+)`"
    r"|(?P<bar>\|)"
)


def inline(text: str) -> str:
    """One paragraph's or one line's marks."""

    def mark(found):
        if found["name"]:
            return f"``{found['name'].split('.')[-1] if '~' in found[0] else found['name']}``"
        if found["link"]:
            return f"`{found['text']} <{found['link']}>`__"
        if found["bar"]:
            return r"\|"  # |y| is a length, not a substitution
        return f"``{found['code']}``" if found["code"] else found[0]

    return re.sub(r"(?<!\w)\*(?!\*)(optional)\*", r"*\1*", INLINE.sub(mark, text))


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def convert(lines: list[str]) -> list[str]:
    """The lines of a docstring."""
    out, section, fenced = [], False, False
    for line in join_paragraphs(lines):
        text = line.strip()
        if text.startswith("```"):
            fenced = not fenced
            if fenced:
                margin = indent_of(line)
                out += ["", " " * margin + f".. code-block:: {text[3:] or 'text'}", ""]
            else:
                out.append("")
        elif fenced:
            out.append("    " + line)
        elif SECTION.match(line):
            section = True
            out += ["", f".. rubric:: {text[:-1]}", ""]
        elif text == "> [!NOTE]":
            out += ["", ".. note::", ""]
            section = False
        elif section and text.startswith("> "):
            out += ["", f"**{inline(text[2:])}**", ""]
        elif text.startswith("> "):
            out.append("    " + inline(text[2:]))
        elif section and indent_of(line) == 4 and (entry := ENTRY.match(text)):
            kind = f" ({inline(entry['type'])})" if entry["type"] else ""
            names = ", ".join(f"``{name.strip()}``" for name in entry["name"].split(","))
            out += ["", f"{names}{kind}"]
            if entry["text"]:
                out.append("    " + inline(entry["text"].strip()))
        elif section and text:
            out.append(" " * max(indent_of(line) - 4, 0) + inline(text))
        else:
            section = section and (not text or indent_of(line) > 0)
            out.append(" " * indent_of(line) + inline(text))
    return out


def join_paragraphs(lines: list[str]) -> list[str]:
    """Lines joined to one a paragraph or list item, so that no mark spans two; fenced lines stay as they are."""
    joined, fenced, open_paragraph = [], False, False
    for line in lines:
        text = line.strip()
        starts = not text or SECTION.match(line) or ITEM.match(text) or text.startswith(("```", "> "))
        if text.startswith("```"):
            fenced, open_paragraph = not fenced, False
            joined.append(line)
        elif fenced:
            joined.append(line)
        elif open_paragraph and not starts and continues(joined[-1], line):
            joined[-1] += " " + text
        elif open_paragraph and text.startswith("> ") and continues_quote(joined[-1]):
            joined[-1] += " " + text[2:]
        else:
            joined.append(line)
            open_paragraph = bool(text) and not SECTION.match(line)
    return joined


def continues(before: str, line: str) -> bool:
    """Whether a line goes on with the paragraph before it: what continues a list item is indented."""
    if ITEM.match(before.strip()):
        return indent_of(line) > indent_of(before)
    return indent_of(line) == indent_of(before) and not (indent_of(line) == 4 and ENTRY.match(line.strip()))


def continues_quote(before: str) -> bool:
    return before.strip().startswith("> ") and "[!" not in before


def process(app, what, name, obj, options, lines):
    lines[:] = convert(lines)


def setup(app):
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
