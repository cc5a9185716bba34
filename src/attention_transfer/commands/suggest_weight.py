"""`suggest-weight RECIPE`: how large each term is at the start and after an epoch, and a weight to start from."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from attention_transfer.commands.flags.parsing import parsed_in_part
from attention_transfer.commands.train import parse, recipe_of
from attention_transfer.errors import InputError
from attention_transfer.report.table import DASH, markdown_table

if TYPE_CHECKING:
    from attention_transfer.analysis.weight_suggestion import Guide, TermWeight


@dataclass(frozen=True)
class Flags:
    """Measure the terms of an experiment and suggest their weights; all flags of `train RECIPE` may follow.

    The experiment is trained for a while with the weights it has, in a throw-away folder; nothing is kept. The range of
    a weight is where weight × value lies between 1 and 50 then, the rule of CAT-KD's authors for the first epoch; the
    value in it is the higher the stronger the teacher is against the student.

    Args:
        batches: training batches that every value is a mean over.
        after_epochs: how long to train before the second measurement; a fraction of an epoch, or 0, is possible.
        json: print everything as JSON.
    """

    batches: int = 8
    after_epochs: float = 1.0
    json: bool = False


def command(arguments: Sequence[str]) -> None:
    """Run `suggest-weight`."""
    recipe = recipe_of("suggest-weight", arguments)
    if recipe is None:
        return
    flags, words = parsed_in_part(Flags, f"suggest-weight {recipe.recipe}", arguments[1:])
    if any(word.replace("_", "-").startswith("--run-folder") for word in words):
        raise InputError("nothing is kept: leave --run-folder away")
    experiment, _ = parse(recipe, words)
    from attention_transfer.analysis.weight_suggestion import suggest_weights
    from attention_transfer.training.progress import Reporter

    guide = suggest_weights(experiment, flags.batches, flags.after_epochs, Reporter(Console(stderr=True)))
    print(json.dumps(asdict(guide), indent=2, ensure_ascii=False) if flags.json else to_text(guide))


def to_text(guide: "Guide") -> str:
    """What was measured and suggested, for people."""
    header = ["term", "value at start", "after", "gradient at start", "after", "weight", "counts"]
    header += ["weight for 1…50", "equal gradient", "suggested"]
    start, after = guide.task_start, guide.task_after
    task = [f"{each:.3g}" for each in (start.value, after.value, start.gradient_norm, after.gradient_norm)]
    counted = [f"{guide.task_weight:g}", f"{guide.task_weight * after.value:.3g}"]
    rows = [["task (cross-entropy)", *task, *counted, DASH, DASH, DASH], *(_row(term) for term in guide.terms)]
    who = (
        f"{guide.student} learns from {guide.teacher}" if guide.teacher else f"{guide.student} learns without a teacher"
    )
    known: list[str] = []
    if guide.parameter_ratio is not None:
        known.append(f"which has {guide.parameter_ratio:.2g} times its parameters")
    if guide.teacher_top1 is not None:
        known.append(f"and gets {guide.teacher_top1:.1f} % of the training images right")
    epochs = "1 epoch" if guide.epochs == 1 else f"{guide.epochs:.3g} epochs"
    lines = [
        f"{', '.join([who, ' '.join(known)] if known else [who])}.",
        f"Means over {guide.batches} batches of {guide.batch_size}, at the start and after {epochs} "
        f"({guide.steps:,} steps) with the weights below. Values and gradients are those of a weight of 1.",
        "",
        *markdown_table(header, rows),
        "",
        *(f"- {note}" for note in guide.notes),
    ]
    flags = [f"--{term.flag} {term.suggested:g}" for term in guide.terms if term.suggested is not None]
    return "\n".join([*lines, "", f"to start from: {' '.join(flags)}"] if flags else lines)


def _row(term: "TermWeight") -> list[str]:
    sizes = (term.start.value, term.after.value, term.start.gradient_norm, term.after.gradient_norm)
    between = DASH if term.lowest is None else f"{term.lowest:.3g} … {term.highest:.3g}"
    return [
        term.term,
        *(f"{size:.3g}" for size in sizes),
        f"{term.weight:g} × {term.factor:.3g}" if term.scheduled else f"{term.weight:g}",
        f"{term.weight * term.factor * term.after.value:.3g}",
        between,
        DASH if term.balanced is None else f"{term.balanced:.3g}",
        DASH if term.suggested is None else f"{term.suggested:g}",
    ]
