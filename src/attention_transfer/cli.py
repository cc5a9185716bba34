"""The command line. Beside our errors only the standard library is imported here: `--help` answers at once."""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

from attention_transfer.commands import PROGRAM
from attention_transfer.commands.early import answered
from attention_transfer.commands.exit_codes import code_of, lines_of, refuse_bytes
from attention_transfer.errors import InputError, check_extra, needing, printable


class Command(NamedTuple):
    """A command: the module of `commands/` whose `command` runs it, and what it does, in one line."""

    module: str
    text: str


COMMANDS: dict[str, Command] = {
    "train": Command("train", "Train a student as a recipe says: train RECIPE [flags]; RECIPE --help shows them."),
    "pretrain": Command("pretrain", "Pre-train a vision transformer without labels, by masked autoencoding: MODEL."),
    "evaluate": Command("evaluate", "Measure models on a data set, several also as an ensemble: MODEL..."),
    "compare": Command("compare", "Put finished runs into one table: compare RUN..."),
    "sweep": Command("sweep", "Train every combination of some values: RECIPE --over FIELD=V1,V2 [flags of train]."),
    "reproduce": Command("reproduce", "Run a table of a paper and put it beside the published numbers: TABLE [flags]."),
    "suggest-weight": Command("suggest_weight", "Measure the loss terms of a recipe, suggest weights to start from."),
    "probe": Command("probe", "Train a linear layer on frozen features of other images: MODEL... --data NAME."),
    "class-maps": Command("class_maps", "Draw where models find evidence for their classes: MODEL... --figure FILE."),
    "batch-graph": Command("batch_graph", "Draw which images of a batch teacher and student relate: RUN."),
    "attention-maps": Command("attention_maps", "Draw where vision transformers look: MODEL... --figure FILE."),
    "links": Command("links", "Show, draw and extract the attention links that runs learned: links RUN..."),
    "localise": Command("localise", "Do better networks attend better? Accuracy beside attention: MODEL..."),
    "cost": Command("cost", "Measure parameters, arithmetic, speed and memory of models beside each other: MODEL..."),
    "list": Command("list_", "Show methods, models, data sets and recipes, or what fits words: list [WORD...]."),
    "quickstart": Command("quickstart", "Teacher, student alone, student with attention transfer; minutes on a CPU."),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; those of the process if None.

    Returns:
        The exit code: 0 done, 1 stopped while running, 2 refused, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version(PROGRAM))
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(printable(f"{PROGRAM}: there is no command {name!r}; {hint}"), file=sys.stderr)
        return 2
    try:
        refuse_bytes(rest)
        check_extra("cli", "this command")
        with needing("this command"):
            words = answered(name, rest)
            if words is not None:
                import_module(f"attention_transfer.commands.{COMMANDS[name].module}").command(words)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough (`| head`); nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (InputError, OSError, RuntimeError) as error:
        code = code_of(error)
        if code is None or "ATTENTION_TRANSFER_TRACEBACK" in os.environ:
            raise
        print(lines_of(f"{PROGRAM} {name}", error), file=sys.stderr)
        return code
    return 0


def _overview() -> str:
    lines = [f"usage: {PROGRAM} COMMAND [...]", "", "Train image networks by transferring attention.", "", "commands:"]
    lines += [f"  {name:<16}{command.text}" for name, command in COMMANDS.items()]
    lines += ["", f"{PROGRAM} COMMAND --help shows the flags of a command; {PROGRAM} --version its version."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
