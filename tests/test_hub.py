"""Why something cannot be had from the hub."""

from types import SimpleNamespace

import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from trl_negalign.data import loading
from trl_negalign.evaluation.policies import Policy
from trl_negalign.hub import why_not
from trl_negalign.rewards.loading import check_reward_model
from trl_negalign.scripts import inputs


def answer(status: int) -> SimpleNamespace:
    """What an error of the hub asks of a response, whichever client made it."""
    return SimpleNamespace(status_code=status, headers={}, request=None)


def gated(*args, **kwargs):
    """As transformers and datasets tell of it: an error of their own, from the hub's."""
    try:
        raise GatedRepoError("401 Client Error", response=answer(401))
    except GatedRepoError as error:
        raise OSError("owner/model is not a local folder and is not a valid model identifier") from error


@pytest.mark.parametrize("library", ["AutoConfig", "AutoTokenizer"])
def test_a_gated_model_is_called_gated(library, monkeypatch):
    monkeypatch.setattr(f"transformers.{library}.from_pretrained", gated)
    message = "cannot be loaded: it is gated: accept its terms on the page of owner/model"
    if library == "AutoConfig":
        for read in (lambda: check_reward_model("owner/model"), Policy("label", "owner/model").reader):
            with pytest.raises(ValueError, match=message):
                read()
    else:
        model_args = type("ModelConfig", (), {"model_name_or_path": "owner/model", "model_revision": "main"})
        with pytest.raises(ValueError, match=message):
            inputs.load_tokenizer(type("Args", (), {"trust_remote_code": False}), model_args)


def test_a_gated_dataset_is_called_gated(monkeypatch):
    for module, read in (
        (loading, lambda: loading.read_splits("owner/data", "data")),
        (inputs, lambda: inputs.load_splits("owner/data", None, False)),
    ):
        monkeypatch.setattr(module, "load_dataset", gated)
        with pytest.raises(ValueError, match="it is gated: accept its terms on the page of owner/data"):
            read()


def test_a_login_is_asked_for_and_other_reasons_are_told_as_they_are():
    assert "asks for a login" in why_not("a/b", RepositoryNotFoundError("401", response=answer(401)))
    assert why_not("a/b", ValueError("first line\nsecond")) == "first line"
