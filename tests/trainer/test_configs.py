"""Bad input: one clear error that names the field and the remedy, before a model is loaded."""

import pytest
from datasets import Dataset
from trl import GRPOConfig, TrlParser

from tests.helpers import METHODS, build, dataset
from trl_negalign import NEATConfig, PLEConfig
from trl_negalign.trainer.group_config import UNUSED_GRPO_OPTIONS, GroupConfig


CPU = {"bf16": False, "use_cpu": True}


@pytest.fixture
def out(tmp_path):
    return {"output_dir": str(tmp_path), **CPU}


def test_defaults(out):
    neat, ple = NEATConfig(**out), PLEConfig(**out)
    assert (neat.num_generations, ple.num_generations) == (4, 2)
    assert (neat.sft_weight, neat.ranking_weight, neat.ranking_margin) == (1.0, 1.0, 0.0)
    assert (neat.penalty_type, neat.penalty_weight, neat.penalty_floor) == ("logprob", 0.1, None)
    assert (ple.threshold_init, ple.threshold_decay, ple.threshold_schedule, ple.replay) == (0.2, 0.9, "geometric", 0)
    assert neat.vllm_importance_sampling_correction is False


def test_the_base_configuration(out):
    assert GroupConfig(**out).num_generations == 8
    assert GroupConfig(**out, num_generations=4).num_generations == 4


@pytest.mark.parametrize("given", [{"seed": 1}, '{"seed": 1}'])
@pytest.mark.parametrize("mode", ["server", "colocate"])
def test_a_seed_for_every_sample_of_vllm(out, mode, given):
    if isinstance(given, str) and isinstance(GRPOConfig(**out, generation_kwargs="{}").generation_kwargs, str):
        pytest.skip("this TRL takes no JSON here")
    with pytest.raises(ValueError, match="generation_kwargs has seed=1: vLLM would draw the same completion"):
        NEATConfig(**out, use_vllm=True, vllm_mode=mode, generation_kwargs=given)


def test_other_generation_options_with_vllm(out):
    NEATConfig(**out, use_vllm=True, generation_kwargs={"top_k": 5})


def test_counts_make_the_group_where_its_size_is_left_out(out):
    config = NEATConfig(**out, num_positive=3, num_negative=2, num_plain=1, per_device_train_batch_size=6)
    assert config.num_generations == 6


def test_counts_that_contradict_the_group(out):
    with pytest.raises(ValueError, match=r"num_generations=4 is the size of the whole group.*Set num_generations=5"):
        NEATConfig(**out, num_generations=4, num_positive=3, num_negative=2, dataset_responses=[])


def test_batch_that_tears_groups(out):
    with pytest.raises(ValueError, match=r"per_device_train_batch_size=6 must be a multiple.*Set it to 8"):
        NEATConfig(**out, per_device_train_batch_size=6, gradient_accumulation_steps=2)


@pytest.mark.parametrize(
    ("config_class", "options", "message"),
    [
        (NEATConfig, {"num_generations": 1}, "num_generations=1 must be 2 or larger"),
        (NEATConfig, {"num_generations": 0}, "num_generations=0 must be 2 or larger"),
        (NEATConfig, {"num_positive": -1}, "num_positive=-1 must be 0 or larger"),
        (NEATConfig, {"positive_prompt": "@nothing"}, "positive_prompt='@nothing' is not a packaged guide"),
        (NEATConfig, {"negative_prompt": " "}, "negative_prompt=' ' is empty"),
        (PLEConfig, {"principle_prompt": ""}, "principle_prompt='' is empty"),
        (NEATConfig, {"sft_weight": -1.0}, "sft_weight=-1.0 must be a finite number, 0 or larger"),
        (NEATConfig, {"penalty_weight": float("nan")}, "penalty_weight=nan must be a finite number"),
        (NEATConfig, {"sft_weight": 0, "ranking_weight": 0, "penalty_weight": 0}, "are all 0"),
        (PLEConfig, {"ranking_weight": 0, "wsft_weight": 0}, "ranking_weight, wsft_weight are all 0"),
        (NEATConfig, {"penalty_floor": 1.0}, "penalty_floor=1.0 is a log-probability per token: set it below 0"),
        (NEATConfig, {"npo_beta": 0.0}, "npo_beta=0.0 must be a finite number above 0"),
        (NEATConfig, {"penalty_type": "log"}, "penalty_type='log' is unknown. Use one of 'logprob'"),
        (NEATConfig, {"sft_reduction": "max"}, "sft_reduction='max' is unknown"),
        (NEATConfig, {"ranking_loss_type": "l2"}, "ranking_loss_type='l2' is unknown"),
        (NEATConfig, {"share_prompts": "maybe"}, "share_prompts='maybe' is unknown. Use 'auto', True or False"),
        (PLEConfig, {"share_prompts": None}, "share_prompts=None is unknown. Use 'auto', True or False"),
        (NEATConfig, {"guide_placement": "assistant"}, "guide_placement='assistant' is unknown"),
        (NEATConfig, {"mean_over": "tokens"}, "mean_over='tokens' is unknown. Use one of 'groups', 'signal'"),
        (
            PLEConfig,
            {"mean_over": "signal", "gradient_accumulation_steps": 4, "steps_per_generation": 2},
            "mean_over='signal' counts .* gradient_accumulation_steps=4 does not divide steps_per_generation=2. Set",
        ),
        (
            NEATConfig,
            {"skip_shared_prefix": True, "ranking_weight": 0.0, "penalty_weight": 0.0},
            "skip_shared_prefix=True is about the ranking and the penalty.*are 0. Leave it out",
        ),
        (PLEConfig, {"threshold_decay": 0.0}, r"threshold_decay=0.0 must lie in \(0, 1\]"),
        (PLEConfig, {"threshold_decay": 1.5}, r"threshold_decay=1.5 must lie in \(0, 1\]"),
        (PLEConfig, {"threshold_init": float("inf")}, "threshold_init=inf must be a finite number"),
        (PLEConfig, {"threshold_init": 2.0, "threshold_schedule": "quantile"}, "is a quantile level"),
        (PLEConfig, {"threshold_schedule": "step"}, "threshold_schedule='step' is unknown"),
        (PLEConfig, {"wsft_reduction": "max"}, "wsft_reduction='max' is unknown"),
        (PLEConfig, {"weight_range": "half"}, "weight_range='half' is unknown"),
        (PLEConfig, {"replay": "some"}, "replay='some' must be a whole number, 0 or larger, or 'all'"),
        (PLEConfig, {"replay": -1}, "replay=-1 must be a whole number, 0 or larger, or 'all'"),
        (PLEConfig, {"replay": 1.5}, "replay=1.5 must be a whole number"),
        (PLEConfig, {"replay": None}, "replay=None must be a whole number"),
        (PLEConfig, {"num_generations": 3, "per_device_train_batch_size": 3}, "num_generations=3 must be even.*to 4"),
    ],
)
def test_bad_values(out, config_class, options, message):
    with pytest.raises(ValueError, match=message):
        config_class(**out, **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss_type", "grpo"),
        ("epsilon", 0.1),
        ("epsilon_high", 0.28),
        ("scale_rewards", False),
        ("importance_sampling_level", "sequence"),
        ("off_policy_mask_threshold", 0.5),
        ("top_entropy_quantile", 0.2),
        ("entropy_coef", 0.01),
        ("vllm_importance_sampling_correction", True),
        ("vllm_importance_sampling_mode", "token_truncate"),
    ],
)
@pytest.mark.parametrize("config_class", [NEATConfig, PLEConfig])
def test_grpo_options_without_meaning_are_refused(out, config_class, name, value):
    assert name in UNUSED_GRPO_OPTIONS
    if name not in config_class.__dataclass_fields__:
        pytest.skip(f"this TRL has no {name}")
    with pytest.raises(ValueError, match=f"{name}=.* means nothing in {config_class.__name__}. Leave it out"):
        config_class(**out, **{name: value})


def test_grpo_options_at_their_defaults_are_fine(out):
    NEATConfig(**out, loss_type="dapo", epsilon=0.2, scale_rewards=True, beta=0.1)


@pytest.mark.parametrize("config_class", [NEATConfig, PLEConfig])
def test_every_option_is_documented(config_class):
    own = set(config_class.__dataclass_fields__) - set(config_class.__mro__[1].__dataclass_fields__)
    for name in own:
        assert f"        {name} (`" in config_class.__doc__
        assert config_class.__dataclass_fields__[name].metadata["help"]


@pytest.mark.parametrize("method", METHODS)
class TestDatasets:
    """Checked with a model that does not exist: loading it would fail with another error."""

    def build(self, method, tmp_path, train_dataset, **kwargs):
        return build(method, "no/such-model", None, tmp_path, train_dataset, **kwargs)

    def test_not_a_dataset(self, method, tmp_path):
        with pytest.raises(TypeError, match="train_dataset is .* of type list. Pass a datasets.Dataset"):
            self.build(method, tmp_path, [{"prompt": "x"}])

    def test_no_prompt_column(self, method, tmp_path):
        with pytest.raises(ValueError, match="train_dataset has no 'prompt' column.*trl.extract_prompt"):
            self.build(method, tmp_path, dataset().rename_column("prompt", "query"))

    def test_eval_dataset_is_checked_too(self, method, tmp_path):
        with pytest.raises(ValueError, match="eval_dataset has no 'prompt' column"):
            self.build(method, tmp_path, dataset(), eval_dataset=dataset().rename_column("prompt", "query"))

    def test_too_few_rows(self, method, tmp_path):
        with pytest.raises(ValueError, match=r"has 1 row\(s\), and one generation batch takes 2 queries"):
            self.build(method, tmp_path, dataset(rows=1))

    def test_responses_that_would_be_removed(self, method, tmp_path):
        if method != "neat":
            pytest.skip("only NEAT takes responses from the dataset")
        with pytest.raises(ValueError, match=r"remove_unused_columns=True would remove \['chosen', 'rejected'\]"):
            self.build(method, tmp_path, dataset(responses=True), remove_unused_columns=True)

    def test_a_group_of_another_size(self, method, tmp_path, monkeypatch):
        trainer_class = METHODS[method][0]
        candidates = trainer_class.build_candidates
        monkeypatch.setattr(trainer_class, "build_candidates", staticmethod(lambda *args: candidates(*args)[1:]))
        with pytest.raises(ValueError, match=r"num_generations=4, and .*build_candidates names 3 candidates"):
            self.build(method, tmp_path, dataset())

    def test_no_rows(self, method, tmp_path):
        with pytest.raises(ValueError, match="train_dataset is empty"):
            self.build(method, tmp_path, dataset().select([]))

    @pytest.mark.parametrize("empty", ["", "  "])
    def test_empty_query(self, method, tmp_path, empty):
        data = dataset().map(lambda row, i: {"prompt": empty if i == 5 else row["prompt"]}, with_indices=True)
        with pytest.raises(ValueError, match=r"train_dataset\[5\]\['prompt'\] is empty"):
            self.build(method, tmp_path, data)

    def test_a_query_that_is_a_number(self, method, tmp_path):
        data = Dataset.from_dict({"prompt": list(range(16))})
        with pytest.raises(ValueError, match=r"train_dataset\[0\]\['prompt'\] is 0, and must be a text or messages"):
            self.build(method, tmp_path, data)

    def test_images(self, method, tmp_path):
        data = dataset().add_column("image", [None] * 16)
        with pytest.raises(ValueError, match="images, which are not supported"):
            self.build(method, tmp_path, data)

    def test_configuration_of_another_class(self, method, tmp_path):
        from trl import GRPOConfig

        trainer_class, config_class = METHODS[method]
        args = GRPOConfig(str(tmp_path), **CPU)
        with pytest.raises(TypeError, match=f"args is a GRPOConfig, and .* needs a {config_class.__name__}"):
            trainer_class("no/such-model", args=args, train_dataset=dataset())

    @pytest.mark.parametrize("name", ["tools", "rollout_func", "environment_factory"])
    def test_unsupported_arguments(self, method, tmp_path, name):
        trainer_class, config_class = METHODS[method]
        args = config_class(str(tmp_path), **CPU)
        with pytest.raises(ValueError, match=f"{name} is not supported by {trainer_class.__name__}"):
            trainer_class("no/such-model", args=args, train_dataset=dataset(), **{name: [print]})


@pytest.mark.parametrize(("text", "expected"), [("all", "all"), ("2", 2)])
def test_command_line_and_yaml(text, expected, tmp_path):
    config = tmp_path / "ple.yaml"
    config.write_text(f"output_dir: {tmp_path}\nuse_cpu: true\nbf16: false\nreplay: {text}\n")
    parser = TrlParser((PLEConfig,))
    assert parser.parse_args_and_config(["--config", str(config)])[0].replay == expected
    flags = ["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "False", "--replay", text]
    assert parser.parse_args_and_config(flags)[0].replay == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("auto", "auto"), ("Auto", "auto"), ("true", True), ("True", True), ("false", False), ("no", False), ("1", True)],
)
@pytest.mark.parametrize("config_class", [NEATConfig, PLEConfig])
def test_share_prompts_wherever_it_is_written(config_class, text, expected, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(f"output_dir: {tmp_path}\nuse_cpu: true\nbf16: false\nshare_prompts: {text}\n")
    parser = TrlParser((config_class,))
    assert parser.parse_args_and_config(["--config", str(config)])[0].share_prompts is expected
    flags = ["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "False"]
    assert (
        TrlParser((config_class,)).parse_args_and_config([*flags, "--share_prompts", text])[0].share_prompts
        is expected
    )
    assert config_class(tmp_path, **CPU, share_prompts=text).share_prompts is expected


def test_share_prompts_by_default_and_as_a_flag(tmp_path):
    flags = ["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "False"]
    assert TrlParser((NEATConfig,)).parse_args_and_config(flags)[0].share_prompts == "auto"
    assert TrlParser((NEATConfig,)).parse_args_and_config([*flags, "--share_prompts"])[0].share_prompts is True
    assert NEATConfig(tmp_path, **CPU, share_prompts=True).share_prompts is True
    assert NEATConfig(tmp_path, **CPU, share_prompts=False).share_prompts is False


@pytest.mark.parametrize(("text", "expected"), [("chosen", ["chosen"]), ("none", []), ("[a, b]", ["a", "b"])])
def test_dataset_responses_in_yaml(text, expected, tmp_path):
    config = tmp_path / "neat.yaml"
    config.write_text(f"output_dir: {tmp_path}\nuse_cpu: true\nbf16: false\ndataset_responses: {text}\n")
    assert TrlParser((NEATConfig,)).parse_args_and_config(["--config", str(config)])[0].dataset_responses == expected


def test_missing_response_column(tmp_path):
    with pytest.raises(ValueError, match="dataset_responses names the column 'answer', which train_dataset does not"):
        build("neat", "no/such-model", None, tmp_path, dataset_responses=["answer"])


@pytest.mark.parametrize("style", ["string", "conversation"])
def test_empty_response(tmp_path, style):
    empty = "" if style == "string" else [{"role": "assistant", "content": ""}]
    data = dataset(style, responses=True)
    data = data.map(lambda row, i: {"rejected": empty if i == 3 else row["rejected"]}, with_indices=True)
    with pytest.raises(ValueError, match=r"train_dataset\[3\]\['rejected'\] is empty.*dataset.filter"):
        build("neat", "no/such-model", None, tmp_path, data)


def test_response_in_another_style(tmp_path):
    data = dataset().add_column("chosen", [[{"role": "assistant", "content": "a"}]] * 16)
    with pytest.raises(ValueError, match=r"\['chosen'\] is a message list and its prompt is text"):
        build("neat", "no/such-model", None, tmp_path, data)


def test_conversation_without_a_user_message(tmp_path):
    data = dataset("conversation").map(lambda row: {"prompt": [{"role": "system", "content": "x"}]})
    with pytest.raises(ValueError, match=r"\[0\]\['prompt'\] has no user message.*guide_placement='system'"):
        build("neat", "no/such-model", None, tmp_path, data)


def test_a_stream_is_checked_by_its_first_row(tmp_path):
    stream = dataset(responses=True).to_iterable_dataset().map(lambda row: row)
    assert stream.column_names is None
    with pytest.raises(ValueError, match="leaves nothing to sample beside 2 dataset response"):
        build("neat", "no/such-model", None, tmp_path, stream, num_generations=2)
    with pytest.raises(ValueError, match="has no 'prompt' column"):
        build("neat", "no/such-model", None, tmp_path, stream.rename_column("prompt", "query"))


def test_response_of_several_messages(tmp_path):
    turn = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    data = dataset("conversation", responses=True).map(lambda row: {"chosen": turn})
    with pytest.raises(ValueError, match=r"\['chosen'\] has 2 messages, and a response is one assistant message"):
        build("neat", "no/such-model", None, tmp_path, data)


def test_group_too_small_for_the_datasets_responses(tmp_path):
    with pytest.raises(ValueError, match="leaves nothing to sample beside 2 dataset response"):
        build("neat", "no/such-model", None, tmp_path, dataset(responses=True), num_generations=2)


def test_counts_that_forget_the_datasets_responses(tmp_path):
    options = {"num_generations": None, "num_positive": 2, "num_negative": 2}
    with pytest.raises(ValueError, match=r"make 6. Set num_generations=6.*dataset_responses \(\[\] for none\)"):
        build("neat", "no/such-model", None, tmp_path, dataset(responses=True), **options)


@pytest.mark.parametrize("options", [{}, {"num_generations": 4}, {"gradient_accumulation_steps": 3}])
def test_the_batch_that_was_set_is_named_before_trl_names_another(options, tmp_path):
    message = r"per_device_train_batch_size=6 must be a multiple of the group, num_generations=4\. Set it to 8"
    with pytest.raises(ValueError, match=message):
        NEATConfig(output_dir=str(tmp_path), per_device_train_batch_size=6, bf16=False, use_cpu=True, **options)
