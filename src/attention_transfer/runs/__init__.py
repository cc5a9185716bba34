"""Run folders and tables of runs: the files that training writes, and analysis and report read.

>>> from pathlib import Path
>>> from tempfile import TemporaryDirectory
>>> experiment = {"recipe": "mine", "student": "resnet8", "seed": 0, "training": {"epochs": 1}}
>>> folder = TemporaryDirectory()
>>> with RunFolder.create_or_resume(f"{folder.name}/runs/seed0", experiment) as run:
...     run.append_metrics({"epoch": 1, "test": {"top1": 71.5}})
...     run.write_summary({"epochs": 1})
>>> is_run(f"{folder.name}/runs/seed0")
True
>>> [(run.finished, run.read_metrics()[-1]["test"]) for run in find_runs([f"{folder.name}/runs"])]
[(True, {'top1': 71.5})]
>>> recorded_run(f"{folder.name}/runs/seed0").experiment["student"]
'resnet8'

The same settings resume a run, others are refused with the fields that differ:

>>> differing_fields(experiment, experiment | {"training": {"epochs": 2}})
{'training.epochs': (1, 2)}
>>> flatten(experiment)["training.epochs"]
1
>>> RunFolder.create_or_resume(f"{folder.name}/runs/seed0", experiment | {"seed": 1})
Traceback (most recent call last):
    ...
attention_transfer.runs.folder.RunExistsError: ... seed is 0 there, 1 now. Choose another folder ...
>>> RunFolder(f"{folder.name}/runs")
Traceback (most recent call last):
    ...
attention_transfer.runs.folder.NotARunError: ... is no run folder: it has no experiment.json; give the folder ...

Files and folders of your own appear whole or not at all:

>>> make_folder(Path(f"{folder.name}/figures"))
>>> write_whole(f"{folder.name}/figures/caption.txt", b"Loss")
>>> with whole_file(f"{folder.name}/figures/table.md") as temporary:
...     _ = temporary.write_text("| run | top-1 |")
>>> folder.cleanup()
"""

from attention_transfer.files.atomic import make_folder, whole_file, write_whole
from attention_transfer.files.bare_student import PARTS_WEIGHTS, STUDENT_CONFIG, STUDENT_WEIGHTS
from attention_transfer.files.json_fields import Json
from attention_transfer.files.writing import RunUnwritableError
from attention_transfer.runs.folder import NotARunError, RunExistsError, RunFolder, is_run
from attention_transfer.runs.json_diff import differing_fields, flatten
from attention_transfer.runs.locking import RunLockedError
from attention_transfer.runs.recorded import RecordedRun
from attention_transfer.runs.search import find_runs, recorded_run

__all__ = [
    "PARTS_WEIGHTS",
    "STUDENT_CONFIG",
    "STUDENT_WEIGHTS",
    "Json",
    "NotARunError",
    "RecordedRun",
    "RunExistsError",
    "RunFolder",
    "RunLockedError",
    "RunUnwritableError",
    "differing_fields",
    "find_runs",
    "flatten",
    "is_run",
    "make_folder",
    "recorded_run",
    "whole_file",
    "write_whole",
]
