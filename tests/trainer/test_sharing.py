"""`share_prompts` changes how a group is scored, and nothing that is learnt."""

import pytest
import torch
from peft import LoraConfig
from transformers import MambaConfig, MambaForCausalLM

from tests.helpers import METHODS, build, dataset
from trl_negalign.trainer import group_trainer


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("style", ["string", "conversation"])
@pytest.mark.parametrize("method", METHODS)
def test_it_trains_the_same(method, style, lora, make_model, tokenizer, tmp_path, monkeypatch):
    packed, original = [], group_trainer.shared_prompt_logps
    monkeypatch.setattr(group_trainer, "shared_prompt_logps", lambda *args: packed.append(1) or original(*args))
    options = {"log_entropy": True, "beta": 0.1 * lora, "temperature": 0.7, "optim": "sgd", "max_grad_norm": 0.0}
    found = {}
    for share in (False, True):
        trainer = build(
            method,
            make_model(),
            tokenizer,
            tmp_path / str(share),
            dataset(style, responses=method == "neat"),
            peft_config=LoraConfig(r=4, init_lora_weights=False) if lora else None,
            share_prompts=share,
            **options,
        )
        trainer.train()
        found[share] = trainer
        torch.manual_seed(0)
    assert len(packed) == 2  # one a step, of the second run only
    one, two = (dict(found[share].model.named_parameters()) for share in (False, True))
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5
    logs = [found[share].state.log_history[0] for share in (False, True)]
    for name in ("loss", "grad_norm", "entropy", *(["kl"] if lora else [])):
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-3), name


def test_a_model_for_which_it_is_not_exact(tokenizer, tmp_path):
    model = MambaForCausalLM(MambaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1))
    with pytest.raises(ValueError, match="share_prompts=True cannot be exact here: .* Leave it out"):
        build("neat", model, tokenizer, tmp_path, share_prompts=True)
