"""Why something cannot be had from the hub, in a line."""

from collections.abc import Iterator

from huggingface_hub.errors import GatedRepoError, HfHubHTTPError


def why_not(name: str, error: BaseException) -> str:
    """Why `name`, a hub id or a path, cannot be loaded: that the hub refuses it, or the error's own first line."""
    return refused(name, error) or next(iter(str(error).splitlines()), "") or type(error).__name__


def refused(name: str, error: BaseException) -> str | None:
    """That the hub does not give what it may well have: the libraries often say that there is no such thing."""
    causes = list(_causes(error))
    said = " ".join(str(cause) for cause in causes).lower()
    if any(isinstance(cause, GatedRepoError) for cause in causes) or "gated repo" in said or "gated dataset" in said:
        return (
            f"it is gated: accept its terms on the page of {name} on huggingface.co, and log in with `hf auth login` "
            "or the variable HF_TOKEN."
        )
    statuses = [cause.response.status_code for cause in causes if isinstance(cause, HfHubHTTPError)]
    if 401 in statuses or 403 in statuses:
        return (
            "the hub asks for a login: it is private, or there is no such name. Check the name, and log in with `hf "
            "auth login` or the variable HF_TOKEN."
        )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
