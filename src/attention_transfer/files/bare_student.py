"""File names of a saved student, in a run folder or outside one."""

STUDENT_WEIGHTS = "student.safetensors"
STUDENT_CONFIG = "student.json"
PARTS_WEIGHTS = "parts.safetensors"
