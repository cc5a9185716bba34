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

In several processes: `DistributedDataParallel(distiller, find_unused_parameters=True)`, as some parameters are reached
by no term, or frozen in a phase.

`torch.compile(distiller, fullgraph=True)` works from torch 2.10 on (before, a compiled distiller runs as it is), unless
a method differentiates inside the step, matches heads of attention distillation or has `same_drop_path`. Compiled, the
teacher does not stop after its last tap; what nothing reads is left out of the graph instead.
"""

from attention_transfer.distiller.distiller import Distiller
from attention_transfer.distiller.output import TASK, Output

__all__ = ["TASK", "Distiller", "Output"]
