"""What every analysis opens."""

from pathlib import Path

import pytest
import torch

from attention_transfer import Input
from attention_transfer.analysis.subject import Subject, open_subjects
from attention_transfer.data import DataSet
from tests.analysis.conftest import CPU, save_network


def test_images_are_normalised_as_the_network_was_trained(subject: Subject, dataset: DataSet) -> None:
    image, label = next(subject.batches(dataset.test, 7))
    pixels = torch.from_numpy(dataset.test.images[:7]).permute(0, 3, 1, 2) / 255
    expected = (pixels - torch.tensor([0.3, 0.4, 0.5])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    torch.testing.assert_close(image, expected, rtol=1e-5, atol=1e-5)
    assert label.tolist() == dataset.test.labels[:7].tolist()
    assert subject.notes == ()


def test_a_normalisation_that_nobody_knows_is_said_or_given(dataset: DataSet, tmp_path: Path) -> None:
    silent = save_network(tmp_path / "silent")
    (assumed,) = open_subjects([silent], dataset, CPU)
    assert f"the normalisation of {silent} is unknown" in assumed.notes[0]
    knows = save_network(tmp_path / "knows", input=Input((0.1, 0.1, 0.1), (1.0, 1.0, 1.0)))
    told, own = open_subjects([silent, knows], dataset, CPU, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    first, second = (next(each.batches(dataset.test, 4))[0] for each in (told, own))
    torch.testing.assert_close(first + 0.4, second, rtol=1e-5, atol=1e-5)
    assert told.notes == ()


def test_what_cannot_be_looked_at_is_refused(subject: Subject, dataset: DataSet) -> None:
    with pytest.raises(ValueError, match="give at least one model"):
        open_subjects([], dataset, CPU)
    with pytest.raises(ValueError, match="names a network without weights"):
        open_subjects(["resnet8"], dataset, CPU)
    with pytest.raises(ValueError, match="together, or neither"):
        open_subjects([subject.name], dataset, CPU, mean=(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="leave out --mean and --std"):
        open_subjects([subject.name], dataset, CPU, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), r"the std .* above 0 and at most 1, not 0 0 0$"),
        ((float("nan"), 0.0, 0.0), (1.0, 1.0, 1.0), r"the mean .* 0…1, not nan 0 0$"),
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), r"not 123.675 116.28 103.53: divide by 255$"),
        ((0.5, 0.5, 0.5), (-0.5, 0.5, 0.5), r"the std .*, not -0.5 0.5 0.5$"),
        ((0.5, 0.5, 0.5), (127.5, 127.5, 127.5), r"the std .*: divide by 255$"),
        ((0.5, 0.5, 0.5), (float("inf"), 1.0, 1.0), r"the std .*, not inf 1 1$"),
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(
    mean: tuple[float, float, float], std: tuple[float, float, float], words: str, dataset: DataSet, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        open_subjects([save_network(tmp_path / "silent")], dataset, CPU, mean, std)
