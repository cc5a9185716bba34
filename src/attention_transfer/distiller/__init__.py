"""The meeting point: teacher, student and methods in one module."""

from attention_transfer.distiller.distiller import Distiller
from attention_transfer.distiller.output import TASK, Output

__all__ = ["TASK", "Distiller", "Output"]
