"""A policy that writes `a` and `b`, with odds that the marks + and # in what it reads change if it heeds them."""

import math

import torch
from transformers import LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from tests.conftest import tiny_config
from trl_negalign.evaluation.policies import Policy
from trl_negalign.evaluation.queries import Queries


# the odds of `a` go up by e^2 behind a +, those of `b` behind a #
SHIFT = 2.0
HEEDED = 1 / (1 + math.exp(-SHIFT))
GUIDES = {"positive": "+ +", "negative": "# #", "principle": "+"}


class MarkedPolicy(LlamaForCausalLM):
    def __init__(self, tokenizer, heeds: bool):
        super().__init__(tiny_config(tokenizer))
        self.heeds = heeds
        self.tokens = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in "ab+#"}

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **kwargs):
        return {"input_ids": input_ids}  # all of it: this model has no cache

    def forward(self, input_ids, **kwargs):
        logits = torch.full((*input_ids.shape, self.config.vocab_size), -torch.inf)
        for letter, mark in (("a", "+"), ("b", "#")):
            read = (input_ids == self.tokens[mark]).cumsum(1) > 0
            logits[..., self.tokens[letter]] = SHIFT * read * self.heeds
        return CausalLMOutputWithPast(logits=logits)


def policy(tokenizer, heeds: bool) -> Policy:
    return Policy("marked", "marked", loader=lambda: (MarkedPolicy(tokenizer, heeds), tokenizer))


def queries(count: int, conversational: bool = True, **columns) -> Queries:
    texts = [f"question number {i}" for i in range(count)]
    prompts = [[{"role": "user", "content": text}] for text in texts] if conversational else texts
    return Queries([*range(count)], prompts, None, columns, {"data": "made up", "split": "test"})


def share_of_a(completions, **kwargs) -> list[float]:
    """−1 for b alone to 1 for a alone."""
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    return [(text.count("a") - text.count("b")) / len(text) for text in texts]
