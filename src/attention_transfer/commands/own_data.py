"""The data set of a command that measures models: that of a run among them, unless told otherwise."""

from collections.abc import Sequence

from attention_transfer.experiment import Data, from_json
from attention_transfer.runs import RunFolder, is_run
from attention_transfer.training.prepare import expand


def own_data(arguments: Sequence[str]) -> Data:
    """The data that run folders among the arguments were trained on; the usual ones where there are none.

    Raises:
        ValueError: the runs were trained on different data, and no --data says which to take.
    """
    places = [expand(word) for word in arguments if not word.startswith("-")]
    data = [from_json(RunFolder(place).experiment).data for place in places if is_run(place)]
    names = sorted({each.name for each in data})
    if len(names) > 1 and not any(word.partition("=")[0] == "--data" for word in arguments):
        raise ValueError(f"these runs were trained on {', '.join(names)}: say with --data which images to take")
    return data[0] if len(names) == 1 else Data()
