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
    for share in (False, "auto", True):
        before = len(packed)
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
        # one a step, and with beta another for the reference
        assert len(packed) - before == (0 if share is False else 4 if lora else 2)
    one, *others = (dict(trainer.model.named_parameters()) for trainer in found.values())
    log, *other_logs = (trainer.state.log_history[0] for trainer in found.values())
    for other, other_log in zip(others, other_logs, strict=True):
        assert max((one[name] - other[name]).abs().max().item() for name in one) < 1e-5
        for name in {"loss", "grad_norm", "entropy", "kl"} & log.keys():
            assert other_log[name] == pytest.approx(log[name], rel=1e-3), name
        assert {"loss", "entropy"} <= log.keys() and ("kl" in log) == lora


@pytest.fixture
def mamba(tokenizer):
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1)
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    return MambaForCausalLM(config)


def test_a_model_for_which_it_is_not_exact(mamba, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="share_prompts=True cannot be exact here: .* Leave it out"):
        build("neat", mamba, tokenizer, tmp_path, share_prompts=True)


@pytest.mark.parametrize("share", ["auto", False])
def test_falling_back_says_why_once(share, mamba, tokenizer, tmp_path, caplog):
    trainer = build("neat", mamba, tokenizer, tmp_path, share_prompts=share)
    trainer.train()
    assert not trainer.shares_prompts and trainer.args.share_prompts == share
    said = [record for record in caplog.records if "The query runs once per candidate" in record.message]
    assert [record.levelname for record in said] == (["WARNING"] if share == "auto" else [])
    assert all("'mamba' is not among" in record.message for record in said)
