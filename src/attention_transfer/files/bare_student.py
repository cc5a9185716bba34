"""Names of the files that hold a trained student, in a run folder or by themselves."""

STUDENT_WEIGHTS = "student.safetensors"
STUDENT_CONFIG = "student.json"
PARTS_WEIGHTS = "parts.safetensors"
