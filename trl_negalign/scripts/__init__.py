"""Entry points, one a command, each a dataclass of arguments, a parser and `main`."""
