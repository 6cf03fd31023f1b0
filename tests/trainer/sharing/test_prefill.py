"""Completions with each prompt run once against those of transformers' own `generate`, token by token."""

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GenerationConfig,
    LlamaForCausalLM,
    Qwen3NextConfig,
    T5Config,
    T5ForConditionalGeneration,
)
from trl.trainer.utils import add_fused_lm_head

from tests.helpers import build, dataset, needs_activated_lora
from tests.trainer import families
from tests.trainer.families import GROUPED_HEADS
from trl_negalign.trainer.sharing import prefill
from trl_negalign.trainer.sharing.prefill import prefill_once, supports_prefill_once


SIZES = families.SIZES | {"max_position_embeddings": 64}
END, PAD = SIZES["eos_token_id"], SIZES["pad_token_id"]
FAMILIES = families.FAMILIES | {
    "gemma2": (Gemma2Config, GROUPED_HEADS | {"head_dim": 8, "sliding_window": 4}),
    "qwen3_next": (
        Qwen3NextConfig,
        GROUPED_HEADS
        | {
            "layer_types": ["linear_attention", "full_attention"],
            "head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    ),
}
# distinct prompts' lengths, and which of them stands in each row
LENGTHS = (9, 1, 4, 6)
ROWS = (0, 1, 2, 1, 2, 0, 3, 2)


def make_model(family="llama", attention="sdpa", **overrides):
    config_class, options = FAMILIES[family]
    torch.manual_seed(0)
    config = config_class(**SIZES | options | overrides)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).train()


def with_lora(model, **options):
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False, **options)
    return get_peft_model(model, config)


def make_prompts(rows=ROWS, lengths=LENGTHS):
    """Left-padded prompts, `[rows, P]`, and their mask."""
    torch.manual_seed(3)
    width = max(lengths)
    ids = torch.randint(3, SIZES["vocab_size"], (len(lengths), width))
    mask = (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()
    ids[mask == 0] = PAD
    return {"input_ids": ids[list(rows)], "attention_mask": mask[list(rows)]}


def options(**overrides):
    sampled = {"do_sample": True, "temperature": 0.8, "top_k": 20, "repetition_penalty": 1.2}
    common = {"max_new_tokens": 8, "pad_token_id": PAD, "eos_token_id": END, "disable_compile": True}
    return GenerationConfig(**common | sampled | overrides)


def run(model, generation_config=None, seed=5, **inputs):
    torch.manual_seed(seed)
    return model.generate(**inputs, generation_config=generation_config or options())


def forwards(model):
    """Shapes of the tokens of every forward from here on."""
    shapes = []
    base = model.get_base_model() if hasattr(model, "peft_config") else model

    def record(module, args, kwargs):
        shapes.append(tuple((args[0] if args else kwargs["input_ids"]).shape))

    base.register_forward_pre_hook(record, with_kwargs=True)
    return shapes


def assert_same(model, generation_config=None, distinct=4, **inputs):
    """Same tokens, and each distinct prompt was run once."""
    expected = run(model, generation_config, **inputs)
    shapes = forwards(model)
    with prefill_once(model):
        tokens = run(model, generation_config, **inputs)
    assert torch.equal(tokens, expected)
    rows, width = inputs["input_ids"].shape
    assert shapes[:3] == [(distinct, width - 1), (rows, 1), (rows, 1)]


def assert_left_alone(model, generation_config=None, **inputs):
    """The same forwards as without the context, and the same result."""
    shapes = forwards(model)
    expected = run(model, generation_config, **inputs)
    plain = list(shapes)
    shapes.clear()
    with prefill_once(model):
        result = run(model, generation_config, **inputs)
    assert shapes == plain
    if not isinstance(result, torch.Tensor):
        result, expected = result.sequences, expected.sequences
    assert torch.equal(result, expected)


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("do_sample", [False, True], ids=["greedy", "sampled"])
def test_same_tokens(family, do_sample):
    overrides = {} if do_sample else {"do_sample": False, "temperature": None, "top_k": None}
    assert_same(make_model(family), options(**overrides), **make_prompts())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_same_tokens_with_eager_attention(family):
    assert_same(make_model(family, attention="eager"), **make_prompts())


def test_the_logits_agree_to_rounding():
    model, returned = make_model(), options(return_dict_in_generate=True, output_logits=True)
    expected = run(model, returned, **make_prompts())
    with prefill_once(model):
        result = run(model, returned, **make_prompts())
    torch.testing.assert_close(torch.stack(result.logits), torch.stack(expected.logits), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_same_tokens_with_lora(family):
    model = with_lora(make_model(family))
    assert_same(model, **make_prompts())
    with model.disable_adapter(), prefill_once(model):
        without = run(model, **make_prompts())
    with prefill_once(model):
        assert not torch.equal(run(model, **make_prompts()), without)  # or the adapter would not be tested


def test_same_tokens_with_the_fused_head_of_trl():
    model = make_model()
    add_fused_lm_head(model, temperature=0.7, outputs=("log_probs",))
    assert_same(model, **make_prompts())


def test_same_tokens_through_a_compiled_module():
    model = make_model()
    expected = run(model, **make_prompts())
    shapes = forwards(model)
    with prefill_once(model):
        assert torch.equal(run(torch.compile(model), **make_prompts()), expected)
    assert shapes[0] == (len(LENGTHS), max(LENGTHS) - 1)


def test_prompts_without_padding():
    assert_same(make_model(), distinct=2, **make_prompts(rows=(0, 0, 1), lengths=(5, 5)))


def test_prompts_that_differ_in_the_last_token_share_the_rest():
    inputs = make_prompts(rows=(0, 0, 0), lengths=(5,))
    inputs["input_ids"][:, -1] = torch.tensor([7, 8, 7])
    assert_same(make_model(), distinct=1, **inputs)


def test_a_padding_token_inside_a_prompt_is_part_of_it():
    """Both rows hold the same tokens; the second one's first token is not padding."""
    inputs = make_prompts(rows=(0, 0, 0, 0), lengths=(5,))
    inputs["input_ids"][:, 0] = PAD
    inputs["attention_mask"][:2, 0] = 0
    assert_same(make_model(), distinct=2, **inputs)


def test_distinct_prompts_are_left_alone():
    assert_left_alone(make_model(), **make_prompts(rows=(2, 0, 1)))


def test_prompts_of_one_token_are_left_alone():
    assert_left_alone(make_model(), **make_prompts(rows=(0, 0, 1), lengths=(1, 1)))


@pytest.mark.parametrize("of_the_model", [False, True], ids=["in the call", "of the model"])
@pytest.mark.parametrize(
    "overrides",
    [
        {"num_beams": 2},
        {"num_return_sequences": 2},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 3},
        {"guidance_scale": 1.5},
        {"return_dict_in_generate": True, "output_hidden_states": True},
        {"return_dict_in_generate": True, "output_attentions": True},
    ],
    ids=lambda overrides: "-".join(overrides),
)
def test_other_kinds_of_generation_are_left_alone(overrides, of_the_model):
    model, config = make_model(attention="eager"), options(**{} if of_the_model else overrides)
    if of_the_model:
        model.generation_config.update(do_sample=True, **overrides)
    assert_left_alone(model, config, **make_prompts())


def test_assisted_generation_is_left_alone():
    """Transformers assists one row only, and says so before it runs anything."""
    model = make_model()
    shapes = forwards(model)
    with prefill_once(model), pytest.raises(ValueError, match="batch_size"):
        run(model, options(prompt_lookup_num_tokens=2), **make_prompts())
    assert shapes == []


def test_arguments_that_trl_does_not_pass_are_left_alone():
    model, inputs = make_model(), make_prompts()
    inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    assert_left_alone(model, **inputs)
    inputs = make_prompts(rows=(0, 0), lengths=(5,))
    shapes = forwards(model)
    with prefill_once(model):
        model.generate(inputs["input_ids"], max_new_tokens=2)
    assert shapes[0] == (2, 5)


def test_active_dropout_is_left_alone():
    for model in (make_model(attention_dropout=0.5), with_lora(make_model(), lora_dropout=0.5)):
        assert_left_alone(model, **make_prompts())
        assert_same(model.eval(), **make_prompts())


@pytest.mark.parametrize(
    ("family", "overrides", "reason"),
    [
        ("mistral", {"sliding_window": 4}, "DynamicSlidingWindowLayer"),
        ("gemma2", {"attention": "eager"}, "'gemma2' is not among"),
        ("qwen3_next", {}, "'qwen3_next' is not among"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "'dynamic'"),
    ],
)
def test_models_that_are_not_known_to_be_exact_are_left_alone(family, overrides, reason):
    model = make_model(family, **overrides)
    supported, message = supports_prefill_once(model)
    assert not supported and reason in message
    assert_left_alone(model, **make_prompts())


def test_an_encoder_decoder_model_is_left_alone():
    torch.manual_seed(0)
    sizes = {"vocab_size": 48, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(**sizes, pad_token_id=PAD, decoder_start_token_id=PAD)).eval()
    assert not supports_prefill_once(model)[0]
    expected = run(model, **make_prompts())
    with prefill_once(model):
        assert torch.equal(run(model, **make_prompts()), expected)


@needs_activated_lora
def test_adapters_that_are_activated_inside_the_prompt_are_left_alone():
    assert_unchanged(with_lora(make_model(), alora_invocation_tokens=[5]))


def test_other_adapters_are_left_alone():
    assert_unchanged(get_peft_model(make_model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)))


def assert_unchanged(model):
    assert "adapter is not known to be exact" in supports_prefill_once(model)[1]
    with prefill_once(model):
        assert "generate" not in vars(model.get_base_model())


def test_quantized_weights_are_left_alone():
    model = make_model()
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    assert "quantized" in supports_prefill_once(model)[1]


def test_a_model_with_its_own_generate_is_left_alone():
    class Own(LlamaForCausalLM):
        def generate(self, *args, **kwargs):
            return super().generate(*args, **kwargs)

    assert "of its own" in supports_prefill_once(Own(make_model().config))[1]
    patched = make_model()
    patched.generate = patched.generate
    with prefill_once(patched):
        pass
    assert "of its own" in supports_prefill_once(patched)[1] and "generate" in vars(patched)


def test_a_process_goes_the_way_that_all_can_go(monkeypatch):
    monkeypatch.setattr(prefill, "gather_object", lambda decisions: [*decisions, False])
    assert_left_alone(make_model(), **make_prompts())


def test_generate_is_put_back():
    model = make_model()
    with pytest.raises(KeyError, match="stop"), prefill_once(model):
        assert "generate" in vars(model)
        raise KeyError("stop")
    assert "generate" not in vars(model)
    shapes = forwards(model)
    run(model, **make_prompts())
    assert shapes[0] == (len(ROWS), max(LENGTHS))


def test_the_cache_is_no_larger():
    model, returned = make_model(), options(return_dict_in_generate=True)

    def stored(cache):
        return [
            (tensor.shape, tensor.untyped_storage().nbytes())
            for layer in cache.layers
            for tensor in (layer.keys, layer.values)
        ]

    expected = stored(run(model, returned, **make_prompts()).past_key_values)
    with prefill_once(model):
        assert stored(run(model, returned, **make_prompts()).past_key_values) == expected


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_trainer_takes_the_same_steps(make_model, tokenizer, tmp_path, lora):
    """Gradient checkpointing on: TRL turns it off where it generates, or there would be no cache."""
    trained, prompts = [], []
    for share_prompts in ("auto", False):
        torch.manual_seed(0)
        config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear") if lora else None
        options = {"num_positive": 2, "num_negative": 2, "gradient_checkpointing": True, "peft_config": config}
        # Adam divides by a gradient's size, so that of one near 0 it keeps the rounding alone
        options |= {"share_prompts": share_prompts, "optim": "sgd", "learning_rate": 0.5}
        trainer = build("neat", make_model(), tokenizer, tmp_path, dataset("conversation"), **options)
        model = trainer.accelerator.unwrap_model(trainer.model)
        shapes = forwards(model)
        trainer.train()
        prompts.append(shapes[0][0])
        trained.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert prompts == [4, 8]  # two guides for each of two queries, and two samples of each
    torch.testing.assert_close(*trained, atol=1e-5, rtol=1e-4)
