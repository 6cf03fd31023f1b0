"""The seam check must notice a TRL that changed what is overridden, called or returned."""

import ast
import inspect
import logging
import subprocess
import sys

import pytest
import trl
from transformers import Trainer
from trl import GRPOTrainer

from tests.helpers import build, dataset
from trl_negalign.trainer import group_trainer, seams, trl_patches
from trl_negalign.trainer.hooks import GroupMethod
from trl_negalign.trainer.seams import ATTRIBUTES, CALLED, OPTIONS, OVERRIDDEN, RUN_WITH, SeamError, check_seams


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


GENERATE = GRPOTrainer._generate


@pytest.mark.parametrize("style", ["string", "conversation"])
@pytest.mark.parametrize(
    ("place", "part", "message"),
    [
        (4, lambda rows: [[1] * len(ids) for ids in rows], "what it returns at place 4 is not the log-probabilities"),
        (4, lambda rows: [[-1.0] for _ in rows], "what it returns at place 4 is not the log-probabilities"),
        (2, lambda rows: [[1] * len(ids) for ids in rows], "it returns a list at place 2, which is not known"),
        (8, lambda rows: [[0.0] * len(ids) for ids in rows], "it returns a list at place 8, which is not known"),
        (8, lambda rows: sum(map(len, rows)), "it returns a int at place 8, which is not known"),
    ],
)
def test_what_is_not_known_is_never_filled_in(place, part, message, style, monkeypatch, tmp_path, model, tokenizer):
    def doctored(self, prompts):
        generated = dict(enumerate(GENERATE(self, prompts)))
        generated[place] = part(generated[1])
        return tuple(generated[i] for i in range(len(generated)))

    monkeypatch.setattr(GRPOTrainer, "_generate", doctored)
    trainer = build("neat", model, tokenizer, tmp_path, dataset(style, responses=True))
    with pytest.raises(SeamError, match=f"GRPOTrainer._generate: {message}"):
        trainer.train()


def test_queries_in_another_order(monkeypatch, tmp_path, model, tokenizer):
    monkeypatch.setattr(GRPOTrainer, "_generate", lambda self, prompts: GENERATE(self, prompts[::-1]))
    with pytest.raises(SeamError, match="candidate 0 was not sampled from its own query under its own guide"):
        build("neat", model, tokenizer, tmp_path).train()


def test_something_new_that_is_empty_is_fine(monkeypatch, tmp_path, model, tokenizer):
    monkeypatch.setattr(GRPOTrainer, "_generate", lambda self, prompts: (*GENERATE(self, prompts)[:5], None, [], {}))
    generated = build("neat", model, tokenizer, tmp_path, dataset(responses=True))
    generated.model.train()
    rows = [{"prompt": "question", "chosen": " a", "rejected": " b"}] * 4
    generated._round_inputs = rows
    assert len(generated._generate([row["prompt"] for row in rows])) == 8


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_that_is_gone(name, monkeypatch, tmp_path, model, tokenizer):
    init = GRPOTrainer.__init__

    def doctored(self, *args, **kwargs):
        init(self, *args, **kwargs)
        vars(self)[f"{name}_renamed"] = vars(self).pop(name)

    monkeypatch.setattr(GRPOTrainer, "__init__", doctored)
    with pytest.raises(SeamError, match=f"changed GRPOTrainer.{name}: it is gone"):
        build("neat", model, tokenizer, tmp_path)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_is_gone(name, monkeypatch):
    fields = {key: value for key, value in trl.GRPOConfig.__dataclass_fields__.items() if key != name}
    monkeypatch.setattr(trl.GRPOConfig, "__dataclass_fields__", fields)
    with pytest.raises(SeamError, match=f"changed GRPOConfig.{name}: it is gone"):
        check_seams(GRPOTrainer)


def test_every_attribute_of_trl_that_is_read_is_checked():
    """An attribute that neither this package nor transformers sets comes from TRL."""
    tree = ast.parse(inspect.getsource(group_trainer))
    own = set(vars(group_trainer.GroupTrainer)) | set(vars(GroupMethod))
    read = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            (own if isinstance(node.ctx, ast.Store) and not hasattr(GRPOTrainer, node.attr) else read).add(node.attr)
    own -= set(ATTRIBUTES)  # some are also set, e.g. after a resume
    source = inspect.getsource(sys.modules[Trainer.__module__])
    of_transformers = {name for name in read if f"self.{name}" in source and not name.startswith("_")}
    known = {*OVERRIDDEN, *CALLED, *ATTRIBUTES, "vllm_generation"}
    assert read - own - of_transformers - known == {"_name", "_paper", "_tag_names"} & read


@pytest.mark.parametrize("attempt", ["check_seams(GRPOTrainer)", "__import__('trl_negalign').NEATTrainer"])
def test_a_helper_that_moved(attempt):
    """In a process of its own, since modules are imported once."""
    code = (
        "import trl.trainer.utils; from trl import GRPOTrainer; del trl.trainer.utils.use_adapter\n"
        "from trl_negalign.trainer.seams import SeamError, check_seams\n"
        f"try:\n    {attempt}\nexcept SeamError as error:\n    print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"TRL {trl.__version__} changed trl.trainer.utils: cannot import name 'use_adapter'" in out
    assert "known to work with TRL" in out


def test_a_fused_head_without_its_helper(monkeypatch, tmp_path, model, tokenizer):
    if not hasattr(trl_patches.utils, "add_fused_lm_head"):
        pytest.skip("this TRL has no fused head")
    init = GRPOTrainer.__init__

    def doctored(self, *args, **kwargs):
        init(self, *args, **kwargs)
        monkeypatch.delattr(trl_patches.utils, "add_fused_lm_head")

    monkeypatch.setattr(GRPOTrainer, "__init__", doctored)
    with pytest.raises(SeamError, match="changed trl.trainer.utils.add_fused_lm_head: it is gone"):
        build("neat", model, tokenizer, tmp_path)


def test_a_release_that_was_never_run(monkeypatch, caplog, tmp_path, model, tokenizer):
    seams.logger.warning_once.cache_clear()
    monkeypatch.setattr(trl, "__version__", "1.99.0")
    with caplog.at_level(logging.WARNING, logger=seams.__name__):
        for _ in range(2):
            build("neat", model, tokenizer, tmp_path)
    records = [one for one in caplog.records if one.name == seams.__name__]
    assert len(records) == 1
    assert "never run with TRL 1.99.0, only with 1.10.0" in records[0].message


def test_a_release_that_was_run(monkeypatch, caplog, tmp_path, model, tokenizer):
    seams.logger.warning_once.cache_clear()
    monkeypatch.setattr(trl, "__version__", RUN_WITH[0])
    with caplog.at_level(logging.WARNING, logger=seams.__name__):
        build("neat", model, tokenizer, tmp_path)
    assert not [one for one in caplog.records if one.name == seams.__name__]


def test_the_loss_is_divided_by_accumulation_once(monkeypatch, make_model, tokenizer, tmp_path):
    """Whatever TRL's class says of its own loss."""
    if "loss_is_scaled_for_ga" in vars(GRPOTrainer):
        monkeypatch.setattr(GRPOTrainer, "loss_is_scaled_for_ga", False)
    norms = []
    for batch, accumulation in ((16, 1), (8, 2), (4, 4)):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "max_steps": 1}
        trainer = build("neat", make_model(), tokenizer, tmp_path, dataset(rows=16), **options)
        trainer.train()
        norms.append(trainer.state.log_history[0]["grad_norm"])
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)
