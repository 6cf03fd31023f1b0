"""`negalign merge`: the merged model computes what base and adapter compute."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from trl_negalign.cli import main


def adapter(base, tokenizer, folder, task_type):
    torch.manual_seed(3)
    config = LoraConfig(target_modules="all-linear", task_type=task_type, init_lora_weights=False)
    model = get_peft_model(base, config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize(
    ("auto", "task_type", "fixture"),
    [
        (AutoModelForCausalLM, "CAUSAL_LM", "saved_model"),
        (AutoModelForSequenceClassification, "SEQ_CLS", "saved_reward_model"),
    ],
)
def test_it_computes_the_same(auto, task_type, fixture, tokenizer, tmp_path, request):
    base = auto.from_pretrained(request.getfixturevalue(fixture))
    model = adapter(base, tokenizer, tmp_path / "adapter", task_type)
    assert main(["merge", str(tmp_path / "adapter"), str(tmp_path / "merged")]) == 0
    merged = auto.from_pretrained(tmp_path / "merged").eval()
    assert not Path(tmp_path / "merged" / "adapter_config.json").exists()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = model(ids).logits
        assert torch.allclose(merged(ids).logits, expected, atol=1e-5)
        with model.disable_adapter():
            assert not torch.allclose(model(ids).logits, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "usage: negalign merge ADAPTER OUT"), (["nowhere", "out"], "nowhere is no adapter")],
)
def test_bad_input(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["merge", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_full_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["merge", "adapter", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
