"""What a step gives shows itself without its tensors."""

import torch

from attention_transfer import Term
from attention_transfer.distiller import Output


def test_an_output_shows_loss_and_terms_and_no_tensors() -> None:
    value = torch.tensor(0.25, requires_grad=True)
    out = Output({"ce": Term(value, 0.5), "at": Term(2 * value, torch.tensor(10.0))}, torch.zeros(2, 3))
    # Whoever turns warnings into errors can look at it, too.
    assert repr(out) == "Output(loss 5.125 = ce 0.25 × 0.5, at 0.5 × 10)"
    out.backward()
    assert value.grad is not None
    assert value.grad.item() == 20.5
