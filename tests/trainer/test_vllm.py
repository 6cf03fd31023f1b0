"""
Each candidate's own guided query is what vLLM samples. vLLM itself cannot be installed here: TRL's real
`VLLMGeneration.generate` runs, with stand-ins for the server's client and for the colocated engine.
"""

from types import SimpleNamespace

import pytest
from trl.generation import vllm_generation

from tests.helpers import GUIDES, METHODS, build, dataset


MARK = "marker"


class FakeEngine:
    """Answers each prompt with tokens that say which prompt it was, as often as it is asked to."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.seen = []

    def answer(self, prompt_ids):
        self.seen.append(self.tokenizer.decode(prompt_ids))
        return self.tokenizer(f"{MARK} {len(self.seen)}")["input_ids"]

    def server_generate(self, prompts, n, **kwargs):
        completions = [self.answer(ids) for ids in prompts for _ in range(n)]
        return {
            "prompt_ids": prompts,
            "completion_ids": completions,
            "logprobs": [[[-1.0] for _ in ids] for ids in completions],
        }

    def colocate_generate(self, prompts, sampling_params, use_tqdm):
        outputs = []
        for prompt in prompts:
            ids = self.answer(prompt["prompt_token_ids"])
            logprobs = [{token: SimpleNamespace(logprob=-1.0, rank=1)} for token in ids]
            outputs.append(
                SimpleNamespace(
                    prompt_token_ids=prompt["prompt_token_ids"],
                    outputs=[SimpleNamespace(token_ids=ids, logprobs=logprobs)] * sampling_params.n,
                )
            )
        return outputs


@pytest.fixture
def engine(monkeypatch, tokenizer):
    engine = FakeEngine(tokenizer)

    def init(self):
        self.vllm_client = SimpleNamespace(generate=engine.server_generate)
        self.llm = SimpleNamespace(generate=engine.colocate_generate)

    monkeypatch.setattr(vllm_generation.VLLMGeneration, "_init_vllm", init)
    monkeypatch.setattr(vllm_generation.VLLMGeneration, "sync_weights", lambda self: None)
    monkeypatch.setattr(vllm_generation, "SamplingParams", SimpleNamespace, raising=False)
    return engine


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["server", "colocate"])
@pytest.mark.parametrize("style", ["string", "conversation"])
def test_every_candidate_is_sampled_from_its_own_query(method, mode, style, engine, model, tokenizer, tmp_path):
    scored = []

    def reward(prompts, completions, **kwargs):
        for prompt, completion in zip(prompts, completions, strict=True):
            text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            answer = completion if isinstance(completion, str) else completion[-1]["content"]
            scored.append((text, answer))
        return [float(i) for i in range(len(prompts))]

    trainer = build(
        method, model, tokenizer, tmp_path, dataset(style), reward, use_vllm=True, vllm_mode=mode, max_steps=1
    )
    trainer.train()

    config_class = METHODS[method][1]
    guides = list(GUIDES[config_class].values())
    expected = [[guides[0]] * 2 + [guides[1]] * 2] if method == "neat" else [[None] * 2 + guides * 2]
    assert len(engine.seen) == len(scored) == 8
    for row, (sampled_from, (query, answer)) in enumerate(zip(engine.seen, scored, strict=True)):
        guide = expected[0][row % 4]
        assert query in sampled_from
        assert [text in sampled_from for text in guides] == [text == guide for text in guides]
        assert answer == f"{MARK} {row + 1}"  # and its answer is the one that is scored in its place


@pytest.mark.parametrize("mode", ["server", "colocate"])
def test_dataset_responses_are_not_sampled(mode, engine, model, tokenizer, tmp_path):
    trainer = build(
        "neat", model, tokenizer, tmp_path, dataset(responses=True), use_vllm=True, vllm_mode=mode, max_steps=1
    )
    trainer.train()
    assert len(engine.seen) == 4  # two of four candidates in each of two groups
