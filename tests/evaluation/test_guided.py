"""Queries asked plain and under guides: how guides are read, what is sampled, and how far it lies from plain."""

from dataclasses import replace

import pytest
import torch

from tests.evaluation.guided_policy import queries
from tests.helpers import with_template
from trl_negalign.borders import query_ids
from trl_negalign.evaluation.generation import Sampling
from trl_negalign.evaluation.guided import (
    Guide,
    add_distances,
    add_rewards,
    fitting_queries,
    make_conditions,
    parse_guides,
    sample_conditions,
)
from trl_negalign.guides import apply_guide, resolve_guide


GUIDES = [Guide("positive", "Answer kindly."), Guide("negative", "Answer rudely.")]


def test_a_guide_by_name_by_file_and_as_text(tmp_path):
    (tmp_path / "kind.txt").write_text("  Be kind.\n")
    texts = ["positive=@helpful", f"negative={tmp_path / 'kind.txt'}", "principle=Answer with 1/2 a word, e.g. x=y."]
    assert parse_guides(texts) == [
        Guide("positive", resolve_guide("@helpful", "x", "positive"), "@helpful"),
        Guide("negative", "Be kind."),
        Guide("principle", "Answer with 1/2 a word, e.g. x=y."),
    ]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "--guide is missing"),
        (["good=@helpful"], "--guide 'good=@helpful' must be KIND=@name.*positive, negative"),
        (["positive"], "--guide 'positive' must be KIND="),
        (["positive=@helpful", "positive=Be kind."], "--guide names two positive guides"),
        (["positive=@harmful"], "--guide positive='@harmful' is not a packaged guide"),
        (["positive="], "--guide positive='' is empty"),
        (["positive=nowhere.txt"], "the file nowhere.txt cannot be read: No such file"),
        (["positive=./nowhere"], "the file ./nowhere cannot be read"),
    ],
)
def test_bad_guides(texts, message):
    with pytest.raises(ValueError, match=message):
        parse_guides(texts)


@pytest.mark.parametrize(
    ("content", "message"), [(b"\n", "is empty"), (b"\xff\xfe\x00", "no UTF-8"), (b"@helpful", "begins with '@'")]
)
def test_bad_files_of_guides(content, message, tmp_path):
    (tmp_path / "guide.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        parse_guides([f"positive={tmp_path / 'guide.txt'}"])


def test_conditions_are_plain_and_each_guide_in_each_place():
    found = [(one.kind, one.placement) for one in make_conditions(GUIDES, ["user", "both", "user"], True)]
    assert found == [("plain", None)] + [(kind, at) for kind in ("positive", "negative") for at in ("user", "both")]
    found = make_conditions(GUIDES, ["user", "system"], conversational=False)
    assert [(one.kind, one.placement) for one in found[1:]] == [("positive", "prefix"), ("negative", "prefix")]
    assert found[1].ask(queries(1, conversational=False)).prompts == ["Answer kindly.\n\nquestion number 0"]
    with pytest.raises(ValueError, match=r"placements \['top'\] must be out of user"):
        make_conditions(GUIDES, ["top"], True)


def sample(model, tokenizer, asked, conditions, folder, **options):
    sampling = Sampling(max_new_tokens=6)
    return sample_conditions(model, tokenizer, asked, conditions, sampling, folder, model_id="m", **options)


def test_samples_are_those_of_the_guided_query_and_kept(model, tokenizer, tmp_path, monkeypatch):
    asked = queries(3)
    conditions = make_conditions(GUIDES, ["user"], True)
    found = sample(model, tokenizer, asked, conditions, tmp_path, samples=2)
    assert found[["kind", "query", "sample"]].values.tolist() == [
        [kind, query, i] for kind in ("plain", "positive", "negative") for query in range(3) for i in range(2)
    ]
    assert len(set(found["completion"])) > 12  # of 18: no condition or sample repeats another
    # one at a time, in another order, with a fresh folder: the same
    alone = sample(model, tokenizer, asked.select([2]), [conditions[2]], tmp_path / "other", samples=2)
    assert (
        alone["token_ids"].tolist() == found[(found.kind == "negative") & (found["query"] == 2)]["token_ids"].tolist()
    )
    monkeypatch.setattr(type(model), "generate", None)
    again = sample(model, tokenizer, asked, conditions, tmp_path, samples=2)
    assert again.equals(found)


def test_each_kind_has_its_own_random_numbers_and_a_guide_the_same_in_two_places(
    model, tokenizer, tmp_path, monkeypatch
):
    drawn = []

    def generate_batch(model, tokenizer, ids, rows, sampling):
        drawn.extend(rows)
        return [[1]] * len(ids), [True] * len(ids)

    monkeypatch.setattr("trl_negalign.evaluation.generation.generate_batch", generate_batch)
    conditions = make_conditions(GUIDES, ["user", "both"], True)
    sample(model, tokenizer, queries(2), conditions, tmp_path, samples=2)
    plain, positive, negative = (
        [f"{query}{kind}{sample}" for query in (0, 1) for sample in ("", " 1")]
        for kind in ("", " positive", " negative")
    )
    assert sorted(drawn) == sorted(plain + 2 * positive + 2 * negative)


def test_the_distance_is_that_of_one_sequence_at_a_time(model, tokenizer, tmp_path):
    asked = queries(3)
    conditions = make_conditions(GUIDES[:1], ["user", "system"], True)
    found = sample(model, tokenizer, asked, conditions, tmp_path)
    found = add_distances(found, model, tokenizer, asked, conditions, tmp_path, model_id="m", batch_size=2)

    def logp(prompt, ids):
        before = query_ids(tokenizer, prompt)
        logps = model(torch.tensor([before + ids])).logits[0].double().log_softmax(-1)
        return sum(logps[len(before) - 1 + place, token].item() for place, token in enumerate(ids))

    for row in found.itertuples():
        plain = asked.prompts[row.query]
        guide = None if row.kind == "plain" else "Answer kindly."
        expected = logp(apply_guide(plain, guide, row.placement), row.token_ids) - logp(plain, row.token_ids)
        assert row.distance == pytest.approx(expected, abs=1e-4)
    assert (found[found.kind == "plain"]["distance"] == 0).all()


def test_rewards_are_of_the_plain_query_and_weighted(model, tokenizer, tmp_path):
    asked = queries(2, answer=[5.0, 7.0])
    conditions = make_conditions(GUIDES[:1], ["user"], True)
    found = sample(model, tokenizer, asked, conditions, tmp_path)
    seen = []

    def answer(asked, completions, ids, name):
        seen.append((asked.prompts, asked.columns["answer"], completions[0][0]["role"], ids))
        return asked.columns["answer"]

    def none(asked, *_):
        return [float("nan")] * 3 + [1.0]

    found = add_rewards(found, asked, {"answer": answer, "none": none}, [2.0, 10.0])
    assert found["reward"].tolist() == [10.0, 14.0, 10.0, 24.0]
    assert seen[0][:3] == (asked.prompts * 2, [5.0, 7.0] * 2, "assistant")
    assert found["reward/answer"].tolist() == [5.0, 7.0, 5.0, 7.0]


def test_queries_that_fit_under_every_guide(tokenizer):
    asked = queries(12)
    long = Guide("positive", "word " * 60)
    conditions = make_conditions([long], ["user"], True)
    plain, guided = (len(one.ask(asked).query_ids(tokenizer)[0]) for one in conditions)
    fits = fitting_queries(asked, conditions, {"m": (tokenizer, guided + 20)}, 10)
    assert fits.rows == asked.rows and fits.prompts == asked.prompts
    with pytest.raises(ValueError, match="No query is left"):
        fitting_queries(asked, conditions, {"m": (tokenizer, plain + 30)}, 10)
    # the limit is that of the plain query
    assert (
        fitting_queries(asked, conditions, {"m": (tokenizer, None)}, 10, max_query_tokens=plain + 5).rows == asked.rows
    )


def test_too_few_queries(tokenizer):
    conditions = make_conditions(GUIDES, ["user"], True)
    with pytest.raises(
        ValueError, match="made up has 1 query to ask, and a guide cannot be told from chance on fewer"
    ):
        fitting_queries(queries(1), conditions, {"m": (tokenizer, None)}, 10)


def test_a_conversation_without_a_user_takes_no_guide_there(tokenizer):
    asked = queries(12)
    asked.prompts[3] = [{"role": "system", "content": "x"}]
    with pytest.raises(ValueError, match="guide_placement='user' needs a user message"):
        fitting_queries(asked, make_conditions(GUIDES, ["user"], True), {"m": (tokenizer, None)}, 10)


def test_options_of_the_chat_template_reach_samples_and_distances(model, tokenizer, tmp_path):
    template = tokenizer.chat_template.replace("assistant\n' }}{% endif %}", "assistant\n' }}{{ mood }}{% endif %}")
    changed = with_template(tokenizer, template)
    conditions = make_conditions(GUIDES[:1], ["user"], True)
    found = []
    for mood in ("good", "bad"):
        asked = replace(queries(3), chat_template_kwargs={"mood": mood})
        table = sample(model, changed, asked, conditions, tmp_path)
        table = add_distances(table, model, changed, asked, conditions, tmp_path, model_id="m")
        found.append((table["token_ids"].tolist(), table["distance"].tolist()))
    assert found[0][0] != found[1][0] and found[0][1] != found[1][1]


def test_a_guide_reads_the_queries_columns():
    asked = replace(queries(3), columns={"answer": ["a", "b", "c"]})
    conditions = make_conditions([Guide("positive", "Say {answer}.")], ["user"], asked.conversational)
    found = conditions[1].ask(asked).prompts
    expected = [apply_guide(one, f"Say {text}.", "user") for one, text in zip(asked.prompts, "abc", strict=True)]
    assert found == expected and conditions[0].ask(asked).prompts == asked.prompts
    with pytest.raises(ValueError, match="reads the column 'answer', which .* does not have"):
        conditions[1].ask(replace(asked, columns={}))
