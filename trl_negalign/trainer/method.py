"""What a method is called, and whose it is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """
    One line of the table of methods, `trl_negalign/methods/table.py`.

    Args:
        name (`str`): as in tables, reports and model cards; in lower case it is the command, `negalign <name>`.
        trainer, config (`str`): names of the classes, as `trl_negalign` exports them.
        prefix (`str`): what its own metrics begin with, before the slash.
        says (`str`): what its command does, in a line.
        title, arxiv, citation (`str`): of its paper; the citation is BibTeX.
    """

    name: str
    trainer: str
    config: str
    prefix: str
    says: str
    title: str
    arxiv: str
    citation: str

    @property
    def command(self) -> str:
        return self.name.lower()

    @property
    def paper(self) -> dict[str, str]:
        """The paper as TRL's model cards take it."""
        return {"title": self.title, "id": self.arxiv, "citation": self.citation}

    @property
    def tags(self) -> list[str]:
        """Tags of a model card: a setting of another method's objective has that one's too."""
        return list(dict.fromkeys(["trl", "trl-negalign", self.prefix, self.command]))
