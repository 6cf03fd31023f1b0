"""
`negalign merge ADAPTER OUT`: a LoRA adapter merged into its base model, as a plain model's folder. The stages of a
recipe start from plain models, and reward models have to be plain.
"""

from pathlib import Path


def run(options: list[str]) -> None:
    if len(options) != 2 or any(option.startswith("-") for option in options):
        raise ValueError("usage: negalign merge ADAPTER OUT")
    adapter, out = options
    if Path(out).exists() and any(Path(out).iterdir()):
        raise ValueError(f"{out} is not empty. Choose another folder.")

    from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftConfig
    from transformers import AutoTokenizer

    try:
        config = PeftConfig.from_pretrained(adapter)
    except ValueError as error:
        raise ValueError(f"{adapter} is no adapter: {str(error).splitlines()[0]}") from error
    classes = {"CAUSAL_LM": AutoPeftModelForCausalLM, "SEQ_CLS": AutoPeftModelForSequenceClassification}
    if config.task_type not in classes:
        raise ValueError(f"{adapter} has the task type {config.task_type}, and must have one of {', '.join(classes)}.")
    # a reward has one label, and the adapter does not say so
    labels = {"num_labels": 1} if config.task_type == "SEQ_CLS" else {}
    model = classes[config.task_type].from_pretrained(adapter, **labels)
    model.merge_and_unload().save_pretrained(out)
    AutoTokenizer.from_pretrained(adapter).save_pretrained(out)
    print(f"The merged model is in {out}.")
