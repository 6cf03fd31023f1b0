import json
import shutil

import pytest


@pytest.fixture
def report(module):
    return module("report")


@pytest.fixture
def folders(module, task, finish, break_off, tmp_path, monkeypatch):
    """A comparison under way: one method with seeds, one with a failed seed, one in its grid, others not begun."""
    plan = module("plan")
    monkeypatch.setattr(module("report"), "read_task", lambda name: task)
    monkeypatch.setattr(module("report"), "task_names", lambda: ["smoke"])

    def runs(name):
        method = plan.read_method(name)
        setting = {} if name == "start" else {"learning_rate": 1e-3}
        return plan.grid_runs(task, method), plan.seed_runs(task, method, setting)

    rewards = {"training": {"family": "words", "texts": 40, "accuracy_held_out": 0.9}}
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "rewards.json").write_text(json.dumps(rewards))
    history = [{"reward/plain": 0.1 * step, "reward/principle": 2.0} for step in range(4)]
    for name in ("start", "ple"):
        grid, seeds = runs(name)
        for run in grid[:1] + seeds:
            finish(run, shift=0.0 if name == "start" else 0.5, history=history)
    break_off(runs("ple")[0][1], "FloatingPointError: the loss is nan at step 1 | 2")
    finish(runs("grpo")[0][0])
    finish(runs("grpo")[1][0])
    break_off(runs("grpo")[1][1], "the worker ended with code -9: no output")
    finish(runs("neat")[0][0])
    return tmp_path


def test_a_partial_comparison_is_shown_with_its_holes(report, folders):
    page = folders / "page.md"
    page.write_text("# Mine\n\n<!-- smoke:begin -->\nold\n<!-- smoke:end -->\n\nThe end.\n")
    report.main(["--results", str(folders), "--readme", str(page)])
    text = page.read_text()
    assert text.startswith("# Mine") and text.endswith("The end.\n") and "\nold\n" not in text
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    whole = [line for line in text.splitlines() if line.startswith("| ple | lr0.001 | 3 of 3 |")]
    assert len(whole) == 1 and "3 of 3 | 10 (10–10)" in whole[0]
    assert any(line.startswith("| grpo | lr0.001 | 1 of 3 |") for line in text.splitlines())
    assert any(line.startswith("| neat | lr0.001 | *grid, 1 of 2* | *1.00, validation*") for line in text.splitlines())
    assert any(line.startswith("| rloo | *not run*") for line in text.splitlines())
    assert "| P1 |" in text and "no run of sft" in text and lines["P1"]
    for name in ("frontier", "curves", "gap"):
        assert (folders / "smoke" / f"{name}.png").stat().st_size > 5000 and f"(smoke/{name}.png)" in text


def test_every_trial_is_listed_failed_ones_too(report, folders):
    report.main(["--results", str(folders), "--readme", str(folders / "page.md")])
    text = (folders / "page.md").read_text()
    trials = text.split("<summary>Every trial</summary>")[1]
    assert (
        "| ple | grid | lr0.01 | 0 | – | – | failed: FloatingPointError: the loss is nan at step 1 \\| 2 |" in trials
    )
    assert "| grpo | seeds | lr0.001 | 2 | – | – | failed: the worker ended with code -9: no output |" in trials
    assert "| grpo | seeds | lr0.001 | 3 | – | – | not run yet |" in trials
    assert "| grpo | grid | lr0.001 | 0 | 1.00 | 0.50 | fluent | chosen |" in trials
    assert "3 failed" not in text and "2 failed" in text


def test_the_same_folders_give_the_same_page(report, folders):
    page = folders / "page.md"
    texts = []
    for _ in range(2):
        report.main(["--results", str(folders), "--readme", str(page)])
        texts.append((page.read_text(), (folders / "smoke" / "frontier.png").read_bytes()))
    assert texts[0] == texts[1]


def test_reward_at_a_distance_is_read_between_checkpoints(module):
    pages, path = module("pages"), [(0.0, 1.0), (2.0, 2.0), (1.0, 3.0), (4.0, 4.0)]
    assert pages.reward_at(path, 1) == 1.5  # where it is first reached
    assert pages.reward_at(path, 3) == pytest.approx(3 + 2 / 3)
    assert pages.reward_at(path, 5) is None
    assert pages.reward_at([(0.0, 1.0), (None, None), (4.0, 4.0)], 1) is None


def test_runs_that_do_not_come_as_far_are_not_counted(module):
    def record(name, *points):
        numbers = [{"part": "validation", "kl": {"mean": kl}, "reward/gold": reward} for kl, reward in points]
        return {"run": {"method": name}, "numbers": numbers}

    start = record("start", (0.0, 0.0))["numbers"][0]
    runs = {"start": [record("start", (0.0, 0.0))], "ple": [record("ple", (2.0, 1.0)), record("ple", (8.0, 8.0))]}
    last = module("pages").frontier_table(runs, start, "gold").splitlines()[-1]
    assert last == "| ple | 0.75 (0.50–1.00), 2 of 2 | 1.50 (1.00–2.00), 2 of 2 | 4.00, 1 of 2 | 8.00, 1 of 2 |"


def test_without_results_it_says_what_to_run(report, tmp_path):
    with pytest.raises(SystemExit, match="no results. Run `python comparison/run.py"):
        report.main(["--results", str(tmp_path), "--readme", str(tmp_path / "page.md")])


def test_a_page_with_one_marker_is_refused(report, module):
    with pytest.raises(module("plan").PlanError, match="smoke:end"):
        report.put_between("<!-- smoke:begin --> text", "smoke", "new")


def test_what_is_of_other_settings_or_wrong_is_a_hole_on_the_page(module, report, folders, task, monkeypatch):
    # a run of the chosen setting is another's, and a method's file is wrong
    plan, read = module("plan"), module("plan").read
    folder = plan.folder_of(folders, plan.seed_runs(task, plan.read_method("ple"), {"learning_rate": 1e-3})[1])
    record = json.loads((folder / "run.json").read_text())
    record["run"]["task_settings"]["budget"]["steps"] = 99
    (folder / "run.json").write_text(json.dumps(record))

    def broken(folder, name, *keys):
        return read(folder, name, *keys) | ({"options": {"gruop": 4}} if name == "raft" else {})

    monkeypatch.setattr(plan, "read", broken)
    report.main(["--results", str(folders), "--readme", str(folders / "page.md")])
    text = (folders / "page.md").read_text()
    assert "**Left out:** methods/raft.yaml: trl_negalign.RAFTConfig has no option 'gruop'." in text
    assert "| ple | lr0.001 | 2 of 3 |" in text and "\n| raft |" not in text
    trial = next(line for line in text.splitlines() if line.startswith("| ple | seeds | lr0.001 | 2 |"))
    assert "failed: its folder holds a run of other settings (task_settings.budget.steps)" in trial


def test_only_a_grid_is_there(report, module, folders):
    for path in folders.glob("smoke/*/seeds-*"):
        shutil.rmtree(path)
    report.main(["--results", str(folders), "--readme", str(folders / "page.md")])
    text = (folders / "page.md").read_text()
    assert "| ple | lr0.001 | *grid, 1 of 2* | *1.00, validation*" in text and "| P1 |" in text
    assert "no run of ple, sft" in text and "gap.png" not in text
    assert (folders / "smoke" / "frontier.png").stat().st_size > 5000


def test_nothing_but_rewards_is_there(report, module, folders):
    for path in folders.glob("smoke/*/"):
        shutil.rmtree(path)
    report.main(["--results", str(folders), "--readme", str(folders / "page.md")])
    text = (folders / "page.md").read_text()
    assert "0 of " in text and "| start | *not run* |" in text


def test_likras_part_comes_with_its_runs(report, folders):
    (folders / "likra").mkdir()
    report.main(["--results", str(folders), "--readme", str(folders / "page.md")])
    text = (folders / "page.md").read_text()
    assert "## Likra" in text and "### hellaswag" in text and "| L1 arc |" in text
    assert "no run of same_question" in text


def test_claims_of_a_task_stand_on_its_part_alone(module, report, folders, task, monkeypatch):
    report.main(["--results", str(folders), "--readme", str(folders / "page.md")])
    assert "| N4 |" not in (folders / "page.md").read_text()
    (folders / "smoke").rename(folders / "dialogue")
    monkeypatch.setattr(report, "task_names", lambda: ["dialogue"])
    monkeypatch.setattr(report, "read_task", lambda name: task | {"name": name})
    report.main(["--results", str(folders), "--readme", str(folders / "page.md")])
    text = (folders / "page.md").read_text()
    assert (
        "| N4 | the dataset's responses in the group help | neat | training | – | **no run of neat_responses" in text
    )
    assert "| neat_responses | *not run* |" in text
