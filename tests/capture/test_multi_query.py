"""Attention whose queries have more heads than its keys."""

import torch
from torch import Tensor, nn

from attention_transfer.capture import Capture, Tap


def test_one_head_of_keys_may_serve_all_queries() -> None:
    class MultiQuery(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            query, key = x.unflatten(2, (2, 4)).transpose(1, 2), x[:, None, :, :4]
            return nn.functional.scaled_dot_product_attention(query, key, key).transpose(1, 2).flatten(2).mean(1)

    model, tokens = nn.Sequential(MultiQuery()), torch.randn(3, 5, 8)
    tap = Tap("0", "attention", "tokens")
    call = Capture(model, [tap], "student").run(tokens).attention[tap]
    assert call.shape == (3, 2, 5, 5)
    expected = (tokens.unflatten(2, (2, 4)).transpose(1, 2) @ tokens[:, None, :, :4].mT / 2).softmax(-1)
    torch.testing.assert_close(call.map(), expected)
    torch.testing.assert_close(call.result().transpose(1, 2).flatten(2).mean(1), model(tokens))
