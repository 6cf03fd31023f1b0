import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from tests.conftest import save
from trl_negalign.evaluation.policies import Policy, parse_policy
from trl_negalign.fingerprints import tokenizer_fingerprint, weights_digest


@pytest.fixture
def adapter(make_model, saved_model, tmp_path):
    """An adapter on the tiny policy's folder, without a tokenizer."""
    model = make_model()
    model.name_or_path = saved_model
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "runs" / "adapter")
    return adapted, str(tmp_path / "runs" / "adapter")


def logits(model):
    return model(torch.tensor([[5, 6, 7]])).logits


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/model-1", ("model-1", "org/model-1", None)),
        ("gpt2", ("gpt2", "gpt2", None)),
        ("mine=org/model", ("mine", "org/model", None)),
        ("org/model+org/adapter", ("adapter", "org/model", "org/adapter")),
        ("mine=org/model+org/adapter", ("mine", "org/model", "org/adapter")),
    ],
)
def test_names(text, expected):
    policy = parse_policy(text)
    assert (policy.label, policy.base, policy.adapter) == expected


def test_a_folder_may_have_any_name(tmp_path):
    path = tmp_path / "a=b+c"
    path.mkdir()
    assert parse_policy(str(path)).base == str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("x=", "names nothing"), ("base+", "names nothing"), ("./no/model", "folder ./no/model does not exist")],
)
def test_bad_names(text, message):
    with pytest.raises(ValueError, match=message):
        parse_policy(text)


def test_a_model_that_is_not_there():
    with pytest.raises(ValueError, match=r"The model 'model' \(no/such/model\) cannot be loaded: "):
        parse_policy("no/such/model").reader()


def test_a_model_on_disk(saved_model, make_model, tokenizer):
    policy = parse_policy(saved_model)
    tokenizer, context = policy.reader()
    model, _, identity = policy.load()
    assert context == 512 and tokenizer.eos_token == "<|end|>" and not model.training
    assert torch.equal(logits(model), logits(make_model()))
    assert identity.pop("config") and identity.pop("libraries").keys() > {
        "torch",
        "transformers",
        "tokenizers",
        "peft",
    }
    assert identity == {
        "model": saved_model,
        "commit": None,
        "adapter": None,
        "weights": weights_digest(make_model()),
        "adapter_config": None,
        "dtype": "float32",
        "attention": "sdpa",
        "device": "cpu",
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "end_tokens": [tokenizer.eos_token_id],
    }
    assert policy.load("bfloat16")[0].dtype == torch.bfloat16


def test_base_and_adapter(adapter, saved_model):
    adapted, path = adapter
    for text in (f"{saved_model}+{path}", path, f"tiny+{path}"):
        packaged = {"tiny": Policy("tiny", saved_model).load}
        packaged = {"tiny": lambda load=packaged["tiny"]: load()[:2]}
        policy = parse_policy(text, packaged)
        model, tokenizer, identity = policy.load()
        assert policy.label == "adapter" and identity["adapter"] == path
        assert torch.allclose(logits(model), logits(adapted.eval()), atol=1e-6)
        assert policy.reader()[1] == 512 and len(tokenizer) > 100


def test_the_adapters_tokenizer_comes_first(adapter, saved_model, tokenizer):
    _, path = adapter
    changed = AutoTokenizer.from_pretrained(saved_model)
    changed.chat_template = "{{ messages }}"
    changed.save_pretrained(path)
    policy = parse_policy(f"{saved_model}+{path}")
    assert policy.reader()[0].chat_template == policy.load()[1].chat_template == "{{ messages }}"


def test_a_model_that_is_there_already(model, tokenizer):
    policy = Policy("mine", "in memory", loader=lambda: (model, tokenizer))
    assert policy.reader() == (tokenizer, 512)
    assert policy.load()[0] is model


def test_the_fingerprint_is_of_the_weights_alone(make_model, tokenizer, tmp_path):
    model = make_model()
    first = weights_digest(model)
    save(model, tokenizer, tmp_path / "copy")
    assert parse_policy(str(tmp_path / "copy")).load()[2]["weights"] == first
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    assert weights_digest(model) != first
    assert weights_digest(make_model(seed=1)) != first
    assert weights_digest(make_model().bfloat16()) != first
