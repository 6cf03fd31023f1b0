"""
Packed groups against one sequence at a time: the model's own logits, without padding, packing, TRL's head or any of
the package's functions.
"""

from types import SimpleNamespace

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from torch.nn.attention import flex_attention
from torch.nn.attention.flex_attention import flex_attention as plain_flex
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    MambaConfig,
    Qwen3NextConfig,
)
from transformers.integrations import flex_attention as transformers_flex_attention
from trl.trainer.utils import add_fused_lm_head

from tests.helpers import needs_activated_lora
from tests.trainer import families
from tests.trainer.families import FAMILIES
from trl_negalign.trainer.sharing import packing
from trl_negalign.trainer.sharing.attention import locate
from trl_negalign.trainer.sharing.packing import (
    pack_shared_prompts,
    packing_is_cheaper,
    shared_prompt_logps,
    supports_shared_prompts,
)


SIZES = families.SIZES | {"max_position_embeddings": 16}
VOCABULARY = SIZES["vocab_size"]
TEMPERATURE = 0.7


def make_model(family, attention="sdpa", **overrides):
    config_class, options = FAMILIES[family]
    torch.manual_seed(0)
    config = config_class(**SIZES | options | overrides)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    add_fused_lm_head(model, temperature=TEMPERATURE, outputs=("log_probs", "entropy"))
    return model.train()


def with_lora(model):
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(model, config)


def make_groups(prompts=(5, 1, 3), completions=((6, 2, 0), (1, 4, 3), (0, 0, 5))):
    """Groups of these lengths; where there is no token stands a random one, which must not be seen."""
    generator = torch.Generator().manual_seed(0)
    prompts, completions = torch.tensor(prompts), torch.tensor(completions)
    length, width = int(completions.max()), int(prompts.max())
    return SimpleNamespace(
        prompt_ids=torch.randint(VOCABULARY, (len(prompts), width), generator=generator),
        prompt_mask=(torch.arange(width) >= width - prompts[:, None]).long(),
        completion_ids=torch.randint(VOCABULARY, (*completions.shape, length), generator=generator),
        completion_mask=(torch.arange(length) < completions[..., None]).long(),
        weights=torch.randn(*completions.shape, length, generator=generator),
    )


def packed(model, groups):
    return shared_prompt_logps(
        model, groups.prompt_ids, groups.prompt_mask, groups.completion_ids, groups.completion_mask
    )


def separate(model, groups):
    """`[groups, G, T]` log-probabilities and entropies, one sequence at a time."""
    log_probs = torch.zeros(groups.completion_ids.shape)
    entropies = torch.zeros(groups.completion_ids.shape)
    for group, candidates in enumerate(groups.completion_mask):
        prompt = groups.prompt_ids[group][groups.prompt_mask[group] == 1]
        for candidate, mask in enumerate(candidates):
            completion = groups.completion_ids[group, candidate][mask == 1]
            logits = model(input_ids=torch.cat([prompt, completion])[None]).logits[0].float()
            all_log_probs = torch.log_softmax(logits / TEMPERATURE, dim=-1)
            for t, token in enumerate(completion):
                at = all_log_probs[len(prompt) - 1 + t]
                log_probs[group, candidate, t] = at[token]
                entropies[group, candidate, t] = -(at.exp() * at).sum()
    return log_probs, entropies


def gradients(model, log_probs, weights):
    model.zero_grad()
    (log_probs * weights).sum().backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}


def assert_exact(model, groups, log_prob_tolerance=1e-5, gradient_tolerance=1e-4):
    expected = separate(model, groups)[0]
    found = packed(model, groups)[0]
    assert found.shape == groups.completion_ids.shape
    torch.testing.assert_close(found, expected, atol=log_prob_tolerance, rtol=0)
    found = gradients(model, found, groups.weights)
    for name, gradient in gradients(model, separate(model, groups)[0], groups.weights).items():
        error = (found[name] - gradient).norm() / gradient.norm()
        assert error < gradient_tolerance, (name, error)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_as_separate_sequences(family, attention):
    model = make_model(family, attention)
    assert supports_shared_prompts(model) == (True, "")
    assert_exact(model, make_groups())


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_with_gradient_checkpointing(family):
    model = with_lora(make_model(family))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert supports_shared_prompts(model) == (True, "")
    assert_exact(model, make_groups())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_lora(family):
    assert_exact(with_lora(make_model(family)), make_groups())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["qwen3", "gpt_neox"])
def test_gradient_checkpointing(family, reentrant):
    model = make_model(family)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert_exact(model, make_groups())


# bfloat16 moves these models' log-probabilities by 0.01 nats and their gradients by 1.5% from float32: the two passes
# may be twice as far from each other
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_bf16_autocast(family, attention):
    model, groups = make_model(family, attention, initializer_range=0.1), make_groups()
    with torch.autocast("cpu", torch.bfloat16):
        assert_exact(model, groups, log_prob_tolerance=0.02, gradient_tolerance=0.03)


def test_bf16_weights():
    model, groups = make_model("qwen2", "eager", initializer_range=0.1).to(torch.bfloat16), make_groups()
    torch.testing.assert_close(packed(model, groups)[0].float(), separate(model, groups)[0], atol=0.05, rtol=0)


@pytest.fixture
def uncompiled_flex_attention(monkeypatch):
    """Flex attention's own plain implementation: its kernels have no backward pass on CPUs."""
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(transformers_flex_attention, "WrappedFlexAttention", lambda training: lambda: plain_flex)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma", "gpt_neox"])
def test_block_mask_of_flex_attention(family, uncompiled_flex_attention):
    reference = separate(make_model(family), make_groups())[0]
    model = make_model(family, "flex_attention")
    found = packed(model, make_groups())[0]
    torch.testing.assert_close(found, reference, atol=1e-4, rtol=0)
    model_alone, groups = make_model(family), make_groups()
    found = gradients(model, found, groups.weights)
    for name, gradient in gradients(model_alone, separate(model_alone, groups)[0], groups.weights).items():
        assert (found[name] - gradient).norm() / gradient.norm() < 1e-4, name


@pytest.mark.gpu  # flex attention has no backward pass on CPUs
@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma", "gpt_neox"])
def test_kernels_of_a_gpu(family, attention):
    """Over several blocks of 128 positions; flex attention takes heads of 16 and more."""
    sizes = {"hidden_size": 64, "max_position_embeddings": 512}
    sizes |= {"head_dim": 16} if "head_dim" in FAMILIES[family][1] else {}
    groups = make_groups(prompts=(150, 40), completions=((90, 60, 0), (130, 1, 70)))
    for name, tensor in vars(groups).items():
        setattr(groups, name, tensor.cuda())
    model, alone = make_model(family, attention, **sizes).cuda(), make_model(family, "eager", **sizes).cuda()
    found, expected = packed(model, groups)[0], separate(alone, groups)[0].cuda()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    found = gradients(model, found, groups.weights)
    for name, gradient in gradients(alone, expected, groups.weights).items():
        assert (found[name] - gradient).norm() / gradient.norm() < 1e-4, name


def test_entropies():
    model, groups = make_model("llama"), make_groups()
    torch.testing.assert_close(packed(model, groups)[1], separate(model, groups)[1], atol=1e-4, rtol=0)


def test_no_entropies_unless_the_head_computes_them():
    model = make_model("llama")
    model.forward = LlamaForCausalLM.forward.__get__(model)
    add_fused_lm_head(model, temperature=TEMPERATURE)
    assert packed(model, make_groups())[1] is None


def test_all_positions_through_the_head(monkeypatch):
    """As on a GPU, where TRL's head itself leaves out positions without a label."""
    monkeypatch.setattr(packing, "is_compiled_module", lambda module: True)
    assert_exact(make_model("llama"), make_groups())


def test_one_group_of_one_candidate():
    assert_exact(make_model("llama"), make_groups(prompts=(2,), completions=((3,),)))


@pytest.mark.parametrize("prompts", [(4, 2), (1, 1)])
def test_no_tokens_at_all(prompts):
    model, groups = make_model("llama"), make_groups(prompts, completions=((2, 2), (1, 1)))
    groups.completion_mask[:] = 0
    log_probs, _ = packed(model, groups)
    assert log_probs.count_nonzero() == 0
    assert all(gradient.count_nonzero() == 0 for gradient in gradients(model, log_probs, groups.weights).values())


def test_learnt_positions_are_those_of_the_sequences_alone():
    """Neither the packed length nor padding counts: 13 + 3 and 1 + 15 tokens fit 16 positions."""
    assert_exact(make_model("gpt2"), make_groups(prompts=(13, 1), completions=((3, 2, 3), (15, 1, 4))))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_in_multiples(attention):
    """Queries and candidates of other lengths than the multiple, in every group."""
    model, groups = make_model("llama", attention), make_groups()
    lengths = []
    model.register_forward_pre_hook(lambda *args: lengths.append(args[2]["input_ids"].shape[1]), with_kwargs=True)
    expected, plain = separate(model, groups)[0], packed(model, groups)[0]
    found = shared_prompt_logps(
        model, groups.prompt_ids, groups.prompt_mask, groups.completion_ids, groups.completion_mask, 8
    )[0]
    assert lengths[-2:] == [12, 16]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    grads = gradients(model, plain, groups.weights)
    for name, gradient in gradients(model, found, groups.weights).items():
        torch.testing.assert_close(gradient, grads[name], atol=1e-4, rtol=1e-4)


def test_layout():
    batch = pack_shared_prompts(
        torch.tensor([[9, 10, 11], [9, 9, 12]]),
        torch.tensor([[1, 1, 1], [0, 0, 1]]),
        torch.tensor([[[20, 21, 9], [22, 9, 9]], [[9, 9, 9], [23, 24, 25]]]),
        torch.tensor([[[1, 1, 0], [1, 0, 0]], [[0, 0, 0], [1, 1, 1]]]),
    )
    assert batch.input_ids.tolist() == [[9, 10, 11, 20, 11], [12, 23, 24, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2], [0, 1, 2, 0, 0]]
    assert batch.blocks.tolist() == [[0, 0, 1, 1, 2], [2, 2, 2, -1, -1]]
    assert batch.labels.tolist() == [[-100, -100, 20, 21, 22], [23, 24, 25, -100, -100]]
    first, second = batch.attention_mask().long().tolist()
    assert first == [[[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]]
    assert second == [[[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]]


@pytest.mark.parametrize(
    ("prompt", "completion", "size", "width", "by_blocks", "cheaper"),
    [
        # pairs: 255² / 2 + 4 * 64 * 319 = 114176 and 4 * 320² / 2 = 204800
        (256, 64, 4, 320, True, True),  # 511 * 1920 + 114176 < 0.9 * (1280 * 1920 + 204800)
        (256, 64, 4, 320, False, True),  # 511 * 1920 + 511² < 0.9 * (1280 * 1920 + 4 * 320²)
        # pairs: 31² / 2 + 8 * 128 * 159 = 163296 and 8 * 160² / 2 = 102400
        (32, 128, 8, 50, True, False),  # 1055 * 300 + 163296 > 0.9 * (1280 * 300 + 102400)
        (32, 128, 8, 320, True, True),  # 1055 * 1920 + 163296 < 0.9 * (1280 * 1920 + 102400)
        (32, 128, 8, 320, False, False),  # 1055 * 1920 + 1055² > 0.9 * (1280 * 1920 + 8 * 160²)
        (32, 128, 8, 4096, False, True),  # 1055 * 24576 + 1055² < 0.9 * (1280 * 24576 + 8 * 160²)
        (12, 64, 2, 4096, True, False),  # 139 of 152 tokens: less, but not by a tenth
    ],
)
def test_cost(prompt, completion, size, width, by_blocks, cheaper):
    masks = torch.ones(2, prompt, dtype=torch.long), torch.ones(2, size, completion, dtype=torch.long)
    assert packing_is_cheaper(width, *masks, by_blocks) is cheaper


def test_cost_counts_the_candidates_that_are_run():
    prompt_mask, completion_mask = torch.ones(2, 256), torch.zeros(2, 4, 64)
    completion_mask[:, :2] = (
        1  # four rows: 2 * (383 * 240 + 255² / 2 + 2 * 64 * 319) < 0.9 * 4 * (320 * 240 + 320² / 2)
    )
    assert packing_is_cheaper(40, prompt_mask, completion_mask)
    completion_mask[1, 1] = 0  # three rows, and the packed rows are as long as the longest: 330522 < 345600
    assert packing_is_cheaper(40, prompt_mask, completion_mask)
    completion_mask[1, 0] = 0  # two rows: 330522 > 230400
    assert not packing_is_cheaper(40, prompt_mask, completion_mask)


def test_cost_counts_tokens_not_padding():
    prompt_mask, completion_mask = torch.ones(2, 32), torch.ones(2, 8, 128)
    assert not packing_is_cheaper(50, prompt_mask, completion_mask)
    completion_mask[:, 1:, 10:] = 0  # 31 + 128 + 7 * 10 = 229 packed positions
    assert packing_is_cheaper(50, prompt_mask, completion_mask)
    completion_mask[1] = 1  # the longest row counts, and the separate ones' attention is the full square
    assert packing_is_cheaper(50, prompt_mask, completion_mask)
    assert not packing_is_cheaper(50, prompt_mask, completion_mask, by_blocks=False)


@pytest.mark.parametrize("padded", ["prompt", "completion", "candidate without tokens"])
def test_cost_of_padding_is_the_full_square(padded):
    """Separate rows are as long as before, and one that is padded keeps attention from leaving out the future."""
    prompt_mask, completion_mask = torch.ones(2, 32), torch.ones(2, 8, 128)
    if padded == "prompt":
        prompt_mask[0, 0] = 0
    elif padded == "completion":
        completion_mask[0, 0, -1] = 0
    else:
        completion_mask[0, 0] = 0
    assert packing_is_cheaper(50, prompt_mask, completion_mask) is (padded != "candidate without tokens")


def test_cost_counts_each_group_by_itself():
    """One long candidate in one group and four short ones in the other are not eight long ones."""
    prompt_mask, completion_mask = torch.zeros(2, 64), torch.zeros(2, 4, 128)
    prompt_mask[0] = completion_mask[0, 0] = 1
    prompt_mask[1, -1] = completion_mask[1, :, 0] = 1
    # 2 * (191 * 30 + 63² / 2) + 128 * 191 + 4 * 1 = 39881 < 0.9 * 5 * (192 * 30 + 192²) = 191808, and with
    # 2 * 4 * 128 * 191 pairs it would be 211013
    assert packing_is_cheaper(5, prompt_mask, completion_mask)


@pytest.mark.parametrize("width", [16, 64, 896])
@pytest.mark.parametrize("queries", [(32, 32), (512, 512), (512, 40), (2048, 100)])
@pytest.mark.parametrize("length", [16, 256, 2048])
def test_the_mask_is_in_the_cost(width, queries, length):
    """Where groups are packed, their masks are smaller than what packing saves."""
    prompts = torch.tensor(queries)
    prompt_mask = torch.arange(max(queries)) >= max(queries) - prompts[:, None]
    completion_mask = torch.ones(2, 4, length, dtype=torch.bool)
    packed = int(prompts.max()) - 1 + 4 * length
    places = locate(prompts - 1, completion_mask.sum(2), packed, torch.bool)
    rows, alone = 8, max(queries) + length
    for by_blocks, masks in ((True, {id(bias): bias.numel() for bias in places.bias}), (False, {0: 2 * packed**2})):
        if packing_is_cheaper(width, prompt_mask, completion_mask, by_blocks):
            assert sum(masks.values()) < rows * alone**2 + 6 * width * (rows * alone - 2 * packed)


class Wrapper(nn.Module):
    """Stands for DDP, DeepSpeed or FSDP, whose hooks run where the wrapper is called."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        self.calls = 0

    def forward(self, **kwargs):
        self.calls += 1
        return self.module(**kwargs)


def test_called_once_through_its_wrapper():
    model, groups = with_lora(make_model("llama")), make_groups()
    wrapper = Wrapper(model)
    torch.testing.assert_close(packed(wrapper, groups), packed(model, groups))
    assert wrapper.calls == 1


def test_the_model_is_left_as_it_was():
    model, groups = make_model("llama"), make_groups()
    before = separate(model, groups)[0]
    packed(model, groups)
    groups.completion_ids[0, 0, 0] = VOCABULARY  # as a label and as an input
    with pytest.raises(IndexError):
        packed(model, groups)
    groups = make_groups()
    torch.testing.assert_close(separate(model, groups)[0], before, atol=0, rtol=0)


def tiny(config_class, **overrides):
    return AutoModelForCausalLM.from_config(config_class(**SIZES | overrides))


def of_config(config):
    """What is refused by its configuration alone needs no weights."""
    model = nn.Module()
    model.config = config
    return model


def with_attention(implementation):
    model = make_model("llama")
    model.config._attn_implementation = implementation
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: make_model("mistral", sliding_window=8), "sliding_window=8"),
        (
            lambda: make_model("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1),
            "sliding_attent",
        ),
        (lambda: tiny(Gemma2Config, head_dim=8, num_key_value_heads=2), "sliding_attention"),
        (lambda: of_config(Qwen3NextConfig(num_hidden_layers=4)), "linear_attention"),
        (lambda: tiny(MambaConfig, state_size=4), "'mamba' is not among"),
        (lambda: of_config(LlavaConfig()), "multimodal"),
        (lambda: with_attention("flash_attention_2"), "attn_implementation is 'flash_attention_2'"),
        (lambda: with_attention("flex_attention"), "attn_implementation is 'flex_attention'"),
        (lambda: make_model("llama").base_model, "LlamaModel is not"),
        (lambda: make_model("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0}), "'dynamic'"),
        (lambda: get_peft_model(make_model("llama"), IA3Config(task_type="CAUSAL_LM")), "the IA3 adapter"),
        (
            lambda: get_peft_model(
                make_model("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
            ),
            "the PROMPT_TUNING adapter",
        ),
        pytest.param(
            lambda: get_peft_model(
                make_model("llama"), LoraConfig(task_type="CAUSAL_LM", alora_invocation_tokens=[3, 4])
            ),
            "the LORA adapter",
            marks=needs_activated_lora,
        ),
        (lambda: tiny(LlamaConfig), "add_fused_lm_head"),
    ],
)
def test_unsupported(make, reason):
    supported, found = supports_shared_prompts(make())
    assert not supported
    assert reason in found


def test_a_sliding_window_that_is_off_is_none():
    assert supports_shared_prompts(make_model("qwen2", use_sliding_window=False, sliding_window=8)) == (True, "")
