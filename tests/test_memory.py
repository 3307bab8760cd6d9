import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from capbench.memory import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
for _ in range(20):
    torch.ones(12_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(12_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's alone")
def test_memory_of_large_tensors_is_used_again() -> None:
    """48 MB are 11,700 pages, unless these are huge ones."""
    faults = {}
    for how in ("kept", "returned"):
        command = [sys.executable, "-c", PROGRAM, how]
        faults[how] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert faults["kept"] < 10_000
    assert faults["kept"] <= faults["returned"]
