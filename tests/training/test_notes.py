"""What is unusual about a run is a note that its user reads, and no warning."""

from attention_transfer.training.prepare import prepare
from tests.training.conftest import Make


def test_what_is_unusual_about_a_distillation_is_a_note(make: Make) -> None:
    notes = prepare(make(student="resnet14", teacher="resnet8")).notes
    assert sum("the student is larger than its teacher" in note for note in notes) == 1
    assert not any("is larger than its teacher" in note for note in prepare(make()).notes)
