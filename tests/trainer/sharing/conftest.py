from tests.helpers import SHARES


# without TRL's fused head nothing is shared, and some of the architectures here are newer than such a TRL
collect_ignore = [] if SHARES else ["test_attention.py", "test_packing.py", "test_prefill.py"]
