"""Whether a command line means a run that is finished, as far as that is certain without loading torch."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attention_transfer.commands.flags.words import read
from attention_transfer.commands.index.reading import SECTIONS, Index
from attention_transfer.errors import InputError
from attention_transfer.runs import RunFolder, is_run

# What the tiny form of an experiment keeps as it is.
_KEPT_BY_TINY = {
    *("seed", "training.device", "training.threads", "training.precision", "training.compile"),
    *("optimisation.weight_decay", "optimisation.momentum", "training.channels_last"),
}


def is_finished(index: Index, recipe: str, words: Sequence[str]) -> Path | None:
    """The folder of a finished run of the experiment that a recipe and flags mean; None where that is not certain.

    Args:
        index: of names and recipes.
        recipe: exists.
        words: flags of `train`, aliases replaced.

    Raises:
        InputError: the folder is damaged, or may not be written.
    """
    values = read(index.train, words)
    if values is None or "WORLD_SIZE" in os.environ or any(path.startswith("methods.") for path in values):
        return None
    tiny = bool(values.pop("tiny", False))
    _ = values.pop("teacher_cache", None)
    given = values.pop("run_folder", None)
    keys = values.pop("methods", None)
    if tiny and (keys is not None or not values.keys() <= _KEPT_BY_TINY):
        return None
    experiment = _meant(index, recipe, tiny, values, keys)
    if experiment is None:
        return None
    label = "+".join(method["name"] for method in experiment["methods"]) or "alone"
    name = f"{'tiny-' if tiny else ''}{label}-seed{experiment['seed']}"
    folder = Path(given) if given is not None else Path("runs", recipe, name)
    return folder if _holds(folder, experiment) else None


def _meant(
    index: Index, recipe: str, tiny: bool, values: dict[str, Any], keys: list[str] | None
) -> dict[str, Any] | None:
    plain = index.experiment(recipe)
    experiment = index.experiment(recipe, tiny)
    if keys is not None:
        chosen = {method["name"]: method for method in experiment["methods"]}
        unlike = set(keys) != set(chosen) and plain["task_weight"] != 1 and "task_weight" not in values
        if unlike or len(set(keys)) < len(keys) or not set(keys) <= index.methods.keys():
            return None
        experiment["methods"] = [chosen.get(key) or index.methods[key]["default"] for key in keys]
    for path, value in values.items():
        section, dot, name = path.partition(".")
        if dot and section not in SECTIONS:
            return None
        (experiment[section] if dot else experiment)[name if dot else section] = value
    data = experiment["data"]
    if data["decoding"] == plain["data"]["decoding"] and not data["name"].startswith("folder:"):
        data["decoding"] = None
    if not experiment["methods"]:
        experiment["teacher"] = None
    return experiment


def _holds(folder: Path, experiment: dict[str, Any]) -> bool:
    if not is_run(folder):
        return False
    run = RunFolder(folder)
    try:
        recorded = run.experiment if run.finished else None
    except InputError:
        return False  # the command says what is wrong with it
    if recorded is None or recorded | {"recipe": experiment["recipe"]} != experiment:
        return False
    RunFolder.create_or_resume(folder, recorded).close()
    return True
