"""What is computed agrees with what is expected on other processors and numbers of threads, too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parent.parent
# Rooms whose tests compare values; the others say what is opened, read, refused and written.
ROOMS = ("tests/methods", "tests/capture", "tests/distiller", "tests/contracts/test_pairs.py")
MACHINES = {
    "no vector instructions": {"ATEN_CPU_CAPABILITY": "default"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "AVX-512": {"ATEN_CPU_CAPABILITY": "avx512"},
    "two threads": {"OMP_NUM_THREADS": "2"},
}


@pytest.mark.more
@pytest.mark.parametrize("machine", MACHINES)
def test_values_agree_on_other_processors(machine: str) -> None:
    if machine == "AVX-512" and "AVX512" not in torch.backends.cpu.get_cpu_capability():
        pytest.skip("this processor has no AVX-512")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:cov", "--no-header", *ROOMS]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    environment |= {"OMP_NUM_THREADS": "1"} | MACHINES[machine]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
