"""Every part of a model that changes a number has a digest of its own; where a model lies has none."""

from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import save
from trl_negalign.fingerprints import PARTS, model_parts, tokenizer_fingerprint


def different(one: dict, other: dict) -> list[str]:
    return [part for part in one if one[part] != other[part]]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"rms_norm_eps": 1e-3}, ["config"]),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, ["config"]),
        ({"attn_implementation": "eager"}, ["attention"]),
        ({"seed": 1}, ["weights"]),
        ({"use_cache": False, "eos_token_id": 5}, []),
    ],
)
def test_a_change_shows_in_its_part_alone(change, parts, make_model):
    assert different(model_parts(make_model()), model_parts(make_model(**change))) == parts


def test_a_type_shows_in_weights_and_dtype(make_model):
    assert different(model_parts(make_model()), model_parts(make_model().bfloat16())) == ["weights", "dtype"]


def test_a_library_of_another_version(make_model, monkeypatch):
    before = model_parts(make_model())
    monkeypatch.setattr("trl_negalign.fingerprints.version", lambda name: "99.0")
    assert different(before, model_parts(make_model())) == ["libraries"]


def test_the_scale_of_an_adapter(make_model, saved_model, tmp_path):
    """The same adapter's weights with another lora_alpha are another model."""
    found = {}
    for alpha in (4, 64):
        torch.manual_seed(0)
        config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, lora_alpha=alpha)
        get_peft_model(make_model(), config).save_pretrained(tmp_path / str(alpha))
        loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(saved_model), tmp_path / str(alpha))
        found[alpha] = model_parts(loaded)
        assert tuple(found[alpha]) == PARTS
    assert different(found[4], found[64]) == ["adapter_config"]


def test_a_copy_elsewhere_is_the_same(make_model, saved_model, tokenizer, tmp_path):
    copy = save(make_model(), tokenizer, tmp_path / "copy")
    found = [
        (
            model_parts(AutoModelForCausalLM.from_pretrained(path)),
            tokenizer_fingerprint(AutoTokenizer.from_pretrained(path)),
        )
        for path in (saved_model, copy)
    ]
    assert found[0] == found[1] == (model_parts(make_model()), tokenizer_fingerprint(tokenizer))


def test_padding_of_an_earlier_call_is_not_the_tokenizers(tokenizer):
    used = deepcopy(tokenizer)
    used(["one", "a longer text"], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(used) == tokenizer_fingerprint(tokenizer)


@pytest.mark.parametrize("change", ["template", "token", "end", "rule"])
def test_another_tokenizer(change, tokenizer):
    other = deepcopy(tokenizer)
    if change == "template":
        other.chat_template = "{{ messages }}"
    elif change == "token":
        other.add_tokens(["padding"])
    elif change == "end":
        other.eos_token = "<|start|>"
    else:
        other.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(tokenizer)
