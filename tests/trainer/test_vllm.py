"""
Each candidate's own guided query is what vLLM samples. vLLM itself cannot be installed here: TRL's real
`VLLMGeneration.generate` runs, with stand-ins for the server's client and for the colocated engine.
"""

from types import SimpleNamespace

import pytest
from trl import GRPOTrainer
from trl.generation import vllm_generation

from tests.helpers import GUIDES, METHODS, build, dataset, text_of
from trl_negalign.trainer.seams import SeamError


MARK = "marker"
MODES = ("server", "colocate")


class FakeEngine:
    """
    Answers each prompt with tokens that say which prompt it was, as often as it is asked to: `seen` holds one entry a
    completion.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.seen = []
        self.calls = 0

    def answer(self, prompt_ids):
        self.seen.append(self.tokenizer.decode(prompt_ids))
        return self.tokenizer(f"{MARK} {len(self.seen)}")["input_ids"]

    def server_generate(self, prompts, n, **kwargs):
        self.calls += 1
        completions = [self.answer(ids) for ids in prompts for _ in range(n)]
        return {
            "prompt_ids": prompts,
            "completion_ids": completions,
            "logprobs": [[[-1.0] for _ in ids] for ids in completions],
        }

    def colocate_generate(self, prompts, sampling_params, use_tqdm):
        self.calls += 1
        outputs = []
        for prompt in prompts:
            completions = [self.answer(prompt["prompt_token_ids"]) for _ in range(sampling_params.n)]
            outputs.append(
                SimpleNamespace(
                    prompt_token_ids=prompt["prompt_token_ids"],
                    outputs=[
                        SimpleNamespace(
                            token_ids=ids,
                            logprobs=[{token: SimpleNamespace(logprob=-1.0, rank=1)} for token in ids],
                        )
                        for ids in completions
                    ],
                )
            )
        return outputs


@pytest.fixture
def engine(monkeypatch, tokenizer):
    engine = FakeEngine(tokenizer)

    def init(self):
        self.vllm_client = SimpleNamespace(generate=lambda **kwargs: engine.server_generate(**kwargs))
        self.llm = SimpleNamespace(generate=lambda prompts, **kwargs: engine.colocate_generate(prompts, **kwargs))

    monkeypatch.setattr(vllm_generation.VLLMGeneration, "_init_vllm", init)
    monkeypatch.setattr(vllm_generation.VLLMGeneration, "sync_weights", lambda self: None)
    monkeypatch.setattr(vllm_generation, "SamplingParams", SimpleNamespace, raising=False)
    return engine


def recording_reward(scored):
    """Writes down each query and its completion as text, in the order in which they are scored."""

    def reward(prompts, completions, **kwargs):
        for prompt, completion in zip(prompts, completions, strict=True):
            scored.append((text_of(prompt), text_of(completion)))
        return [float(i) for i in range(len(prompts))]

    return reward


def check_every_candidate(method, engine, scored, queries=2):
    """Each candidate's own guided query was sampled once, and its answer was scored in its place."""
    guides = list(GUIDES[METHODS[method][1]].values())
    expected = [guides[0]] * 2 + [guides[1]] * 2 if method == "neat" else [None] * 2 + guides * 2
    assert len(engine.seen) == len(scored) == 4 * queries
    assert len({query for query, _ in scored}) == queries
    for row, (sampled_from, (query, answer)) in enumerate(zip(engine.seen, scored, strict=True)):
        assert query in sampled_from
        assert [text in sampled_from for text in guides] == [text == expected[row % 4] for text in guides]
        assert answer == f"{MARK} {row + 1}"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("style", ["string", "conversation"])
def test_every_candidate_is_sampled_from_its_own_query(method, mode, style, engine, model, tokenizer, tmp_path):
    scored = []
    trainer = build(
        method,
        model,
        tokenizer,
        tmp_path,
        dataset(style),
        recording_reward(scored),
        use_vllm=True,
        vllm_mode=mode,
        max_steps=1,
    )
    trainer.train()
    assert engine.calls == 1
    check_every_candidate(method, engine, scored)


# Ways in which a stand-in for vLLM, or TRL around it, may hand over or give back the wrong thing: the test above must
# see each of them, in both modes, or the trainer must.


def several_of_each(engine, calls):
    """Each prompt is sampled several times, and only every fourth prompt at all."""

    def server(prompts, n, **kwargs):
        return calls["server"](prompts[::4], 4, **kwargs)

    def colocate(prompts, sampling_params, **kwargs):
        return calls["colocate"](prompts[::4], SimpleNamespace(**(vars(sampling_params) | {"n": 4})), **kwargs)

    return server, colocate


def first_guide_for_all(engine, calls):
    """All candidates of a group are sampled from the first one's prompt, though each comes back under its own."""

    def server(prompts, n, **kwargs):
        output = calls["server"]([prompts[i - i % 4] for i in range(len(prompts))], n, **kwargs)
        return output | {"prompt_ids": prompts}

    def colocate(prompts, sampling_params, **kwargs):
        outputs = calls["colocate"]([prompts[i - i % 4] for i in range(len(prompts))], sampling_params, **kwargs)
        for prompt, output in zip(prompts, outputs, strict=True):
            output.prompt_token_ids = prompt["prompt_token_ids"]
        return outputs

    return server, colocate


def turned_around(engine, calls):
    """The answers come back in the wrong order."""

    def server(prompts, n, **kwargs):
        output = calls["server"](prompts, n, **kwargs)
        return output | {"completion_ids": output["completion_ids"][::-1]}

    def colocate(prompts, sampling_params, **kwargs):
        outputs = calls["colocate"](prompts, sampling_params, **kwargs)
        for output, other in zip(outputs, [output.outputs for output in outputs][::-1], strict=True):
            output.outputs = other
        return outputs

    return server, colocate


@pytest.mark.parametrize("fault", [several_of_each, first_guide_for_all, turned_around])
@pytest.mark.parametrize("mode", MODES)
def test_a_faulty_engine_is_seen(fault, mode, engine, model, tokenizer, tmp_path):
    calls = {"server": engine.server_generate, "colocate": engine.colocate_generate}
    engine.server_generate, engine.colocate_generate = fault(engine, calls)
    scored = []
    trainer = build(
        "neat",
        model,
        tokenizer,
        tmp_path,
        reward_funcs=recording_reward(scored),
        use_vllm=True,
        vllm_mode=mode,
        max_steps=1,
    )
    with pytest.raises((SeamError, AssertionError)):
        trainer.train()
        check_every_candidate("neat", engine, scored)


def reads_the_configuration(monkeypatch):
    """A TRL whose generation reads `args.num_generations` and not what the trainer holds."""
    generate = GRPOTrainer._generate

    def doctored(self, prompts):
        self.num_generations = self.num_generations_eval = self.args.num_generations
        return generate(self, prompts)

    monkeypatch.setattr(GRPOTrainer, "_generate", doctored)


def hands_over_the_first(monkeypatch):
    """A TRL that hands the first prompt of each group to vLLM in place of all."""
    single_turn = GRPOTrainer._generate_single_turn

    def doctored(self, prompt_ids, *args, **kwargs):
        return single_turn(self, [prompt_ids[i - i % 4] for i in range(len(prompt_ids))], *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", doctored)


def thins_out(monkeypatch):
    """A `VLLMGeneration` that samples each fourth prompt four times by itself."""
    generate = vllm_generation.VLLMGeneration.generate

    def doctored(self, prompts, images, num_generations, profiler=None):
        parts = generate(self, prompts[::4], images, num_generations, profiler)
        return tuple([row for row in part for _ in range(4)] if part is not None else None for part in parts)

    monkeypatch.setattr(vllm_generation.VLLMGeneration, "generate", doctored)


def goes_another_way(monkeypatch):
    """A TRL that samples without `VLLMGeneration.generate`."""

    def doctored(self, prompt_ids, *args, **kwargs):
        return [[1, 2] for _ in prompt_ids], [[-1.0, -1.0] for _ in prompt_ids]

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", doctored)


@pytest.mark.parametrize(
    ("doctor", "message"),
    [
        (reads_the_configuration, "changed GRPOTrainer._generate: it asked vLLM for 4 completions of one query"),
        (hands_over_the_first, "_generate_single_turn: candidate 2 was not sampled from its own query"),
        (thins_out, "VLLMGeneration.generate: candidate 2 was not sampled from its own query"),
        (goes_another_way, "samples without VLLMGeneration.generate"),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_a_trl_that_samples_all_candidates_under_one_guide(
    doctor, message, mode, engine, monkeypatch, model, tokenizer, tmp_path
):
    doctor(monkeypatch)
    trainer = build("neat", model, tokenizer, tmp_path, use_vllm=True, vllm_mode=mode, max_steps=1)
    with pytest.raises(SeamError, match=message):
        trainer.train()


def test_evaluation_is_checked_too(engine, monkeypatch, model, tokenizer, tmp_path):
    reads_the_configuration(monkeypatch)
    trainer = build(
        "neat", model, tokenizer, tmp_path, eval_dataset=dataset(rows=8), use_vllm=True, vllm_mode="server"
    )
    with pytest.raises(SeamError, match="it asked vLLM for 4 completions"):
        trainer.evaluate()


def test_a_vllm_generation_with_other_arguments(engine, monkeypatch, model, tokenizer, tmp_path):
    monkeypatch.setattr(vllm_generation.VLLMGeneration, "generate", lambda self, queries, count: None)
    with pytest.raises(SeamError, match=r"VLLMGeneration.generate: it takes \('queries', 'count'\), expected prompts"):
        build("neat", model, tokenizer, tmp_path, use_vllm=True, vllm_mode="server")


@pytest.mark.parametrize("mode", MODES)
def test_dataset_responses_are_not_sampled(mode, engine, model, tokenizer, tmp_path):
    trainer = build(
        "neat", model, tokenizer, tmp_path, dataset(responses=True), use_vllm=True, vllm_mode=mode, max_steps=1
    )
    trainer.train()
    assert len(engine.seen) == 4  # two of four candidates in each of two groups
