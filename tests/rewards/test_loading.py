"""A reward by its name."""

import asyncio
import inspect
import sys

import huggingface_hub
import pytest

from tests.likra.conftest import make_trainer, questions  # noqa: F401  (fixtures)
from trl_negalign import LikraReward
from trl_negalign.rewards.loading import check_reward, holds_heads, load_reward


@pytest.fixture
def folder_of_heads(make_trainer, saved_model, tmp_path):  # noqa: F811
    trainer = make_trainer(model=saved_model, max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    return str(tmp_path / "saved")


def test_heads_become_a_reward(folder_of_heads):
    reward = load_reward(folder_of_heads)
    assert isinstance(reward, LikraReward)
    assert len(reward(prompts=["What is an egg?"] * 2, completions=["an egg", "a film"])) == 2


def test_checking_heads_loads_no_base(folder_of_heads, monkeypatch):
    monkeypatch.setattr(LikraReward, "__init__", None)
    assert check_reward(folder_of_heads) == folder_of_heads


def test_heads_on_the_hub(monkeypatch):
    asked = []

    def download(repo_id, filename):
        asked.append((repo_id, filename))
        if repo_id != "somebody/heads":
            raise huggingface_hub.errors.LocalEntryNotFoundError("not there")
        return "file"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert holds_heads("somebody/heads") and not holds_heads("somebody/model")
    assert asked == [("somebody/heads", "likra.json"), ("somebody/model", "likra.json")]
    for local in ("vader_reward", "module.function", "./folder", "runs/hh/reward"):
        assert not holds_heads(local)
    assert len(asked) == 2


@pytest.mark.parametrize(
    "name, message",
    [
        ("no_such", "is no packaged one"),
        ("no_such.module", "cannot be imported"),
        ("math.pi", "must be a function"),
        ("./nowhere", "cannot be loaded"),
    ],
)
def test_what_is_no_reward(name, message):
    for read in (check_reward, load_reward):
        with pytest.raises(ValueError, match=message):
            read(name)


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """A reward in the working directory that imports a sibling when it is called."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lazy_sibling.py").write_text("WORTH = 2.0\n")
    (tmp_path / "lazy_reward.py").write_text(
        "def reward(completions, **kwargs):\n    from lazy_sibling import WORTH\n"
        "    return [WORTH] * len(completions)\n"
        "async def later(completions, **kwargs):\n    return reward(completions)\n"
    )
    (tmp_path / "broken_reward.py").write_text("raise RuntimeError('broken')\n")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    yield
    for name in ("lazy_sibling", "lazy_reward"):
        sys.modules.pop(name, None)


def test_the_import_path_is_as_before(beside):
    before = list(sys.path)
    reward = load_reward("lazy_reward.reward")
    assert sys.path == before and reward.__name__ == "reward"
    with pytest.raises(ValueError, match="RuntimeError: broken"):
        load_reward("broken_reward.reward")
    assert sys.path == before
    assert reward(completions=["a"]) == [2.0]  # it finds what lies beside it while it runs
    assert sys.path == before


def test_an_async_reward_stays_one(beside):
    before = list(sys.path)
    reward = load_reward("lazy_reward.later")
    assert inspect.iscoroutinefunction(reward)
    assert asyncio.run(reward(completions=["a", "b"])) == [2.0, 2.0] and sys.path == before
