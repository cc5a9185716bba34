"""On systems without `fcntl` (Windows) the library works, and run folders say what is missing."""

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
sys.modules["fcntl"] = None
import pkgutil, importlib
import torch
import attention_transfer
for module in pkgutil.walk_packages(attention_transfer.__path__, "attention_transfer."):
    importlib.import_module(module.name)
from attention_transfer import AttentionTransfer, Distiller, SoftTargets, build
distiller = Distiller(build("resnet8", 3), build("resnet14", 3), [AttentionTransfer(), SoftTargets()],
                      example=torch.empty(2, 3, 32, 32))
out = distiller.train()(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))
out.loss.backward()
assert torch.isfinite(out.loss)
from attention_transfer.models import open_model, save_model
from attention_transfer.runs import RunFolder, RunUnwritableError
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "student").mkdir()
save_model(distiller.student, folder / "student", "resnet8", 3)
open_model(str(folder / "student"))
try:
    RunFolder.create_or_resume(folder / "run", {"seed": 0})
except RunUnwritableError as error:
    print(error)
assert not (folder / "run").exists()
"""


def test_the_library_works_without_fcntl_and_locking_says_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "locked with flock" in done.stdout
    assert "loop of your own with Distiller" in done.stdout
