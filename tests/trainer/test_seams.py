"""The seam check must notice a TRL that changed what is overridden or called."""

import pytest
import trl
from trl import GRPOTrainer

from tests.helpers import build
from trl_negalign.trainer import group_trainer
from trl_negalign.trainer.seams import CALLED, OVERRIDDEN, SeamError, check_seams


def test_the_installed_trl_passes():
    check_seams(GRPOTrainer)


@pytest.mark.parametrize("seam", [*OVERRIDDEN, *CALLED])
def test_a_seam_that_is_gone(seam):
    doctored = type("Doctored", (GRPOTrainer,), {seam: None})
    with pytest.raises(SeamError, match=f"TRL {trl.__version__} changed Doctored.{seam}: it is gone.*known to work"):
        check_seams(doctored)


@pytest.mark.parametrize("seam", OVERRIDDEN)
def test_an_overridden_seam_with_another_argument(seam):
    doctored = type("Doctored", (GRPOTrainer,), {seam: lambda self, batch, extra: None})
    with pytest.raises(SeamError, match=rf"Doctored.{seam}: it takes \('batch', 'extra'\), expected"):
        check_seams(doctored)


@pytest.mark.parametrize("seam", CALLED)
def test_a_called_seam_that_wants_more(seam):
    doctored = type("Doctored", (GRPOTrainer,), {seam: lambda self, model, *, needed: None})
    with pytest.raises(SeamError, match=f"Doctored.{seam}"):
        check_seams(doctored)


def test_overrides_take_what_trl_passes():
    for name, arguments in OVERRIDDEN.items():
        code = getattr(group_trainer.GroupTrainer, name).__code__
        assert code.co_varnames[1 : code.co_argcount] == arguments


def test_it_runs_when_a_trainer_is_built(monkeypatch, tmp_path):
    monkeypatch.setattr(GRPOTrainer, "_generate", lambda self, prompts, extra: None)
    with pytest.raises(SeamError, match="_generate"):
        build("neat", "no/such-model", None, tmp_path)


def test_a_generation_that_returns_something_else(monkeypatch, tmp_path, model, tokenizer):
    trainer = build("neat", model, tokenizer, tmp_path)
    monkeypatch.setattr(GRPOTrainer, "_generate", lambda self, prompts: ([], [], None, [], None))
    with pytest.raises(SeamError, match="no longer returns"):
        trainer.train()
