"""The command line. Beside our errors only the standard library is imported here: `--help` answers at once."""

import errno
import os
import sys
from collections.abc import Callable, Sequence

from attention_transfer.commands import PROGRAM
from attention_transfer.errors import InputError, check_extra, needing, printable

_SHOWN = 200  # letters of a name in a message
# What a machine says no with whatever is asked of it: rights, room, devices that fail, names that it does not have.
_OF_THE_MACHINE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.ENOSPC, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, getattr(errno, "EDQUOT", errno.ENOSPC)),
)


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
        print(f"{PROGRAM}: there is no command {name!r}\n\n{_overview()}", file=sys.stderr)
        return 2
    try:
        _refuse_bytes(rest)
        check_extra("cli", "this command")
        with needing("this command"):
            COMMANDS[name](rest)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough (`| head`); nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (InputError, OSError, RuntimeError) as error:
        code = _code(error)
        if code is None or "ATTENTION_TRANSFER_TRACEBACK" in os.environ:
            raise
        lines = [f"{PROGRAM} {name}: {_said(error)}", *getattr(error, "__notes__", ())]
        print(printable("\n".join(lines)), file=sys.stderr)
        return code
    return 0


def train(arguments: Sequence[str]) -> None:
    """Train a student as a recipe says: train RECIPE [flags]; --help after the recipe shows its flags."""
    from attention_transfer.commands.train import command

    command(arguments)


def pretrain(arguments: Sequence[str]) -> None:
    """Pre-train a vision transformer without labels, by masked autoencoding: pretrain MODEL [flags]."""
    from attention_transfer.commands.pretrain import command

    command(arguments)


def evaluate(arguments: Sequence[str]) -> None:
    """Measure models on a data set, several also as an ensemble: evaluate MODEL... [--data NAME]."""
    from attention_transfer.commands.evaluate import command

    command(arguments)


def compare(arguments: Sequence[str]) -> None:
    """Put finished runs into one table: compare RUN..."""
    from attention_transfer.commands.compare import command

    command(arguments)


def probe(arguments: Sequence[str]) -> None:
    """Train a linear layer on frozen features of other images: probe MODEL... --data NAME."""
    from attention_transfer.commands.probe import command

    command(arguments)


def sweep(arguments: Sequence[str]) -> None:
    """Train every combination of some values: sweep RECIPE --over FIELD=V1,V2 [flags of train]."""
    from attention_transfer.commands.sweep import command

    command(arguments)


def reproduce(arguments: Sequence[str]) -> None:
    """Run a table of a paper and put it beside the published numbers: reproduce TABLE [flags] [flags of train]."""
    from attention_transfer.commands.reproduce import command

    command(arguments)


def suggest_weight(arguments: Sequence[str]) -> None:
    """Measure the loss terms of a recipe and suggest weights to start from: suggest-weight RECIPE [flags of train]."""
    from attention_transfer.commands.suggest_weight import command

    command(arguments)


def localise(arguments: Sequence[str]) -> None:
    """Do better networks attend better? Accuracy beside attention on the object: localise MODEL... [--data NAME]."""
    from attention_transfer.commands.localise import command

    command(arguments)


def cost(arguments: Sequence[str]) -> None:
    """Measure parameters, arithmetic, speed and memory of models beside each other: cost MODEL..."""
    from attention_transfer.commands.cost import command

    command(arguments)


def class_maps(arguments: Sequence[str]) -> None:
    """Draw where models find the evidence for their classes: class-maps MODEL... --figure FILE [--data NAME]."""
    from attention_transfer.commands.class_maps import command

    command(arguments)


def attention_maps(arguments: Sequence[str]) -> None:
    """Draw where vision transformers look, over images: attention-maps MODEL... --figure FILE [--data NAME]."""
    from attention_transfer.commands.attention_maps import command

    command(arguments)


def links(arguments: Sequence[str]) -> None:
    """Show, draw and extract the attention links that runs learned: links RUN... [--out FILE] [--figure FILE]."""
    from attention_transfer.commands.links import command

    command(arguments)


def batch_graph(arguments: Sequence[str]) -> None:
    """Draw which images of a batch a teacher and its student relate to which: batch-graph RUN --figure FILE."""
    from attention_transfer.commands.batch_graph import command

    command(arguments)


def list_(arguments: Sequence[str]) -> None:
    """Show methods, models, data sets and recipes."""
    from attention_transfer.commands.list_ import command

    command(arguments)


def quickstart(arguments: Sequence[str]) -> None:
    """Teacher, student alone, student with attention transfer, a table and a picture, in minutes on a CPU."""
    from attention_transfer.commands.quickstart import command

    command(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "pretrain": pretrain,
    "evaluate": evaluate,
    "compare": compare,
    "sweep": sweep,
    "reproduce": reproduce,
    "suggest-weight": suggest_weight,
    "probe": probe,
    "class-maps": class_maps,
    "batch-graph": batch_graph,
    "attention-maps": attention_maps,
    "links": links,
    "localise": localise,
    "cost": cost,
    "list": list_,
    "quickstart": quickstart,
}


def _code(error: Exception) -> int | None:
    """What the program ends with; None for what is no user's to mend: a bug, which shows where it is."""
    if isinstance(error, InputError) or (isinstance(error, OSError) and error.errno in _OF_THE_MACHINE):
        return 2
    return 1 if type(error).__name__ in ("NonFiniteLossError", "FailedRunsError") else None


def _said(error: Exception) -> str:
    if isinstance(error, InputError) or not isinstance(error, OSError):
        return str(error)
    place = str(error.filename or "")
    shown = place if len(place) <= _SHOWN else f"{place[:_SHOWN]}…"
    return f"{shown}: {error.strerror}" if shown else str(error.strerror)


def _refuse_bytes(arguments: Sequence[str]) -> None:
    """Refuse arguments that are no text, as names of files may be: no run could be recorded with them."""
    for argument in arguments:
        if "\0" in argument:
            raise InputError(f"the argument {argument!r} holds a character that no argument can: leave it out")
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = argument.encode(errors="backslashreplace").decode()
            raise InputError(
                f"the argument {shown} is no text in UTF-8: rename the file or folder of that name"
            ) from None


def _overview() -> str:
    lines = [f"usage: {PROGRAM} COMMAND [...]", "", "Train image networks by transferring attention.", "", "commands:"]
    lines += [f"  {name:<16}{(command.__doc__ or '').strip()}" for name, command in COMMANDS.items()]
    lines += ["", f"{PROGRAM} COMMAND --help shows the flags of a command; {PROGRAM} --version its version."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
