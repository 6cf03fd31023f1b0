"""Where a training command's checks end and its work begins."""

import os

from transformers import TrainerCallback, TrainingArguments

from ..masking import masked
from ..phase import begin_work


class WorkBegins(TrainerCallback):
    """The work of a training begins with its first step: until then a trainer checks what it is given."""

    def on_train_begin(self, args, state, control, **kwargs):
        begin_work()


def forget_secrets(args: TrainingArguments) -> None:
    """
    Take the secrets out of a built trainer's arguments, which transformers writes into every `training_args.bin` and
    hands to trackers. The model is loaded by then; `hub_token` goes where the hub looks for it, into this process's
    `HF_TOKEN`.
    """
    if args.hub_token is not None:
        os.environ["HF_TOKEN"] = args.hub_token
        args.hub_token = None
    args.model_init_kwargs = masked(args.model_init_kwargs)
