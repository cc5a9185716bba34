"""The run folder: the only file that knows its file names. Standard library only."""

STUDENT_WEIGHTS = "student.safetensors"
STUDENT_CONFIG = "student.json"
