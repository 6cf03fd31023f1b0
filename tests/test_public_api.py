"""What can be imported from `trl_negalign` stays importable, and costs nothing until it is."""

import subprocess
import sys

import pytest

import trl_negalign


# the whole public API: a name leaves it in a release that says so, and a new one joins it here
NAMES = {
    "LikraConfig",
    "LikraModel",
    "LikraReward",
    "LikraTrainer",
    "NEATConfig",
    "NEATTrainer",
    "NFTConfig",
    "NSRConfig",
    "PLEConfig",
    "PLETrainer",
    "RAFTConfig",
    "RRHFConfig",
    "TOPRConfig",
    "WeightedReinforceConfig",
    "WeightedReinforceTrainer",
}


def test_the_names():
    assert set(trl_negalign.__all__) == NAMES
    assert set(dir(trl_negalign)) >= NAMES | {"__version__"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_is_the_class_of_its_name(name):
    assert getattr(trl_negalign, name).__name__ == name


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'trl_negalign' has no attribute 'GRPOTrainer'"):
        _ = trl_negalign.GRPOTrainer


def test_the_table_of_methods_imports_no_trainer():
    code = "import sys; import trl_negalign.methods.table; print('torch' in sys.modules or 'trl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
