import pytest

from trl_negalign.reports.curves import plot_curves


NEAT = {
    "reward/positive": 0.5,
    "reward/negative": -0.5,
    "neat/logp_best": -2.0,
    "neat/logp_worst": -3.0,
    "neat/loss_sft": 1.0,
    "neat/loss_ranking": 0.5,
    "neat/loss_penalty": -3.0,
}
PLE = {"reward/plain": 0.1, "ple/gap": 0.3, "ple/threshold": 0.2, "ple/loss_ranking": 0.1, "ple/loss_wsft": None}


@pytest.mark.parametrize("logs", [NEAT, PLE])
def test_draws_what_was_logged_and_skips_what_was_not(logs, tmp_path):
    history = [{"step": step} | logs for step in (1, 2, 3)] + [{"train_runtime": 1.0, "step": 3}]
    path = plot_curves(history, tmp_path / "curves.png", "title")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_a_run_without_logs_is_an_empty_picture(tmp_path):
    assert plot_curves([], tmp_path / "curves.png").is_file()
