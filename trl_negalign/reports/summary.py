"""What a run changed, in words for the terminal."""

from ..evaluation.held_out import HeldOut, mean_and_error
from ..numbers import FEWEST


def held_out_summary(before: HeldOut, after: HeldOut, shown: int = 3) -> str:
    """
    Completions side by side, mean rewards, the gain paired by query, and the perplexity; standard errors where there
    are queries enough for them.

    Args:
        before, after ([`HeldOut`]): two states of one policy on the same queries.
        shown (`int`): completions to show.
    """
    lines = []
    for i in range(shown):
        lines += [f"{before.queries[i]} …"]
        lines += [
            f"  {name} ({state.rewards[i]:+.2f}): {state.completions[i].strip()!r}"
            for name, state in (
                ("before", before),
                ("after ", after),
            )
        ] + [""]
    count, gains = len(before.query_means), after.query_means - before.query_means
    gain, error = mean_and_error(gains)
    few = count < FEWEST
    remark = f"no errors: n < {FEWEST}" if few else "± standard error"
    lines.append(
        f"Held-out reward of the plain query, {count} queries x {before.samples_per_query} samples ({remark}):"
    )
    for name, state in (("before", before), ("after", after)):
        mean, own = mean_and_error(state.query_means)
        lines.append(f"  {name:7} {mean:+.3f}" + ("" if few else f" ± {own:.3f}"))
    errors = f", {gain / error:.1f} standard errors" if error and not few else ""
    lines.append(f"  gain    {gain:+.3f}" + ("" if few else f" ± {error:.3f}") + f"{errors}, paired by query")
    lines.append("Perplexity of the completions under the untrained model (fluency; lower is closer to its own text):")
    ratio = after.perplexity / before.perplexity
    lines.append(f"  {before.perplexity:.1f} before, {after.perplexity:.1f} after: {ratio:.2f}x")
    return "\n".join(lines)
