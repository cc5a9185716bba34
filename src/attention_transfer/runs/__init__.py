"""Run folders and tables of runs: the files that training writes, and analysis and report read.

`runs/folder.py` shows how a run is written and read.
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
