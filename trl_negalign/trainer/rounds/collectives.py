"""What all processes of a run do in step: fail together, and take means over all of them."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object


def on_all_processes(prepare: Callable[[], Any]) -> Any:
    """What `prepare()` returns; if it raises on any process, all processes raise, and none waits for another."""
    error, result = None, None
    try:
        result = prepare()
    except Exception as raised:
        error = raised
    for process, message in enumerate(gather_object([repr(error) if error else None])):
        if message is not None:
            raise error or RuntimeError(f"Process {process} stopped with {message}")
    return result


def means(accelerator: Accelerator, metrics: dict[str, torch.Tensor]) -> dict[str, float]:
    """
    Each tensor's mean over all processes, NaNs left out, with one reduction for all of them; NaN where nothing else
    is. The tensors' shapes may differ from process to process, their names may not.
    """
    if not metrics:
        return {}
    values = [value.detach().float() for value in metrics.values()]
    sums = [torch.stack([value.nansum(), (~value.isnan()).sum().float()]) for value in values]
    totals = accelerator.reduce(torch.stack(sums), reduction="sum").tolist()
    return {
        name: total / count if count else float("nan") for name, (total, count) in zip(metrics, totals, strict=True)
    }
