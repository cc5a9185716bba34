"""What a distiller is given, and that it can be handed on."""

import copy
import pickle
from typing import Any

import pytest
import torch
from tests.pairs import EXAMPLE, TRAIN_LABELS, pair
from torch import nn

from attention_transfer import METHODS, AttentionTransfer, Distiller, build


@pytest.mark.parametrize("key", METHODS)
def test_it_can_be_pickled_and_copied(key: str) -> None:
    student, teacher = pair(key)
    distiller = Distiller(student, teacher, [METHODS[key]()], example=EXAMPLE, train_labels=TRAIN_LABELS).eval()
    batch = torch.randn(2, 3, 16, 16), torch.arange(2), torch.arange(2)
    wanted = distiller(*batch).loss
    for other in (pickle.loads(pickle.dumps(distiller)), copy.deepcopy(distiller)):
        torch.testing.assert_close(other(*batch).loss, wanted)
        assert isinstance(other.student, nn.Module)
        assert other.student is not student


@pytest.mark.parametrize("methods", [["at"], AttentionTransfer(), [AttentionTransfer]])
def test_what_is_no_list_of_methods_is_refused_in_words(methods: Any) -> None:
    with pytest.raises(TypeError, match="methods must be a list of methods"):
        Distiller(build("resnet8", 4), build("resnet14", 4), methods, example=torch.empty(2, 3, 32, 32))
