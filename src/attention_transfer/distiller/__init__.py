"""The meeting point: teacher, student and methods in one module.

>>> import torch
>>> from attention_transfer import AttentionTransfer, build
>>> from attention_transfer.models.untrained import settle_norms
>>> student, teacher = build("resnet8", 4).train(), build("resnet14", 4)
>>> settle_norms(teacher, (16, 16))
>>> distiller = Distiller(student, teacher, [AttentionTransfer()], example=torch.empty(2, 3, 16, 16))
>>> out = distiller(torch.rand(2, 3, 16, 16), torch.tensor([0, 3]))
>>> list(out.terms), out.student_logits.shape
(['ce', 'at'], torch.Size([2, 4]))
>>> out.loss.backward()
>>> distiller.detach()
"""

from attention_transfer.distiller.distiller import Distiller
from attention_transfer.distiller.output import TASK, Output

__all__ = ["TASK", "Distiller", "Output"]
