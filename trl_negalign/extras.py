"""Optional packages, named with the extra that brings them where they are missing."""

from importlib import import_module


def need(extra: str, *packages: str) -> None:
    """
    Import optional packages before anything expensive.

    Args:
        extra (`str`): of this package, e.g. `"report"`.
        *packages (`str`): names to import.

    Raises:
        ImportError: if one is missing, with the command that installs it.
    """
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            raise ImportError(
                f"{package} is missing ({error}). Install it: pip install 'trl-negalign[{extra}]'"
            ) from error
