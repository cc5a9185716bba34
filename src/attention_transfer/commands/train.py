"""`train RECIPE [flags]`: flags come from the fields of the experiment, its methods' included."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tyro

from attention_transfer.commands.early import check_recipe, show_recipes
from attention_transfer.commands.flags.flag import Flag, flags_of_fields
from attention_transfer.commands.flags.parsing import parsed
from attention_transfer.commands.flags.words import check_names, split, without_aliases
from attention_transfer.errors import InputError, printable
from attention_transfer.experiment import Data, Experiment, Optimisation, Training
from attention_transfer.methods import METHODS, Method
from attention_transfer.methods.registry import own_method
from attention_transfer.models.naming import split_weights
from attention_transfer.recipes import RECIPES


@dataclass(frozen=True)
class Common:
    """What is trained, by whom, where it is kept.

    Args:
        student: model to train: a name of ours, timm:NAME, torchvision:NAME, hf:NAME, each with @FILE or @pretrained
            behind it to start from weights, or a run folder.
        teacher: model to learn from, written the same way, or a weights file of one of our models.
        methods: distillation methods, by key; none at all trains the baseline.
        task_weight: weight of the cross-entropy with the labels; 0 trains without labels.
        untrained_teacher: accept a teacher without weights.
        teacher_mean: mean per channel of the teacher's images, where its weights do not have it.
        teacher_std: standard deviation per channel of those images.
        match_classes: `index` pairs the classes of networks with weights with those of the data by their indices alone,
            for names that are spelled in another way or language; None pairs them by name, where both have names.
        seed: seed of everything that is random.
        teacher_cache: folder for the cached outputs of the teacher in each step. Runs that show their teacher the same
            images (same data, augmentation, batch size and seed) read it there instead of running the teacher again.
        run_folder: where the run is kept; runs/RECIPE/METHODS-seedN if not given. Giving the folder of an interrupted
            run goes on with it.
        tiny: shrink everything so that it runs in seconds, to see whether it runs: on a few images of --data, or on
            digits where it is not given.
    """

    student: str
    teacher: str | None
    methods: tuple[str, ...]
    task_weight: float
    untrained_teacher: bool
    teacher_mean: tuple[float, float, float] | None
    teacher_std: tuple[float, float, float] | None
    match_classes: Literal["index"] | None
    seed: int
    teacher_cache: Path | None = None
    run_folder: Path | None = None
    tiny: bool = False


def command(arguments: Sequence[str]) -> None:
    """Run `train`."""
    recipe = recipe_of("train", arguments)
    if recipe is None:
        return
    experiment, common = _read(recipe, arguments[1:])
    from attention_transfer.training.experiment_run import fit_experiment

    fit_experiment(experiment, _folder(experiment, common), teacher_cache=common.teacher_cache)


def recipe_of(command: str, arguments: Sequence[str]) -> Experiment | None:
    """The recipe that a command line begins with; None where it asks for help, which is then printed.

    Args:
        command: its name, for the help.
        arguments: what follows it.

    Raises:
        ValueError: if there is no such recipe.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        show_recipes(command)
        return None
    check_recipe(arguments[0])
    return RECIPES[arguments[0]]()


def parse(recipe: Experiment, arguments: Sequence[str]) -> tuple[Experiment, Path]:
    """The experiment that a recipe and flags make, and its run folder.

    Args:
        recipe: gives every flag its default.
        arguments: flags as typed.

    Raises:
        ValueError: for settings that contradict each other.
    """
    experiment, common = _read(recipe, arguments)
    return experiment, _folder(experiment, common)


def _read(recipe: Experiment, arguments: Sequence[str]) -> tuple[Experiment, Common]:
    chosen = {method.key: method for method in recipe.methods}
    own = own_methods(arguments)
    every = with_own_methods(recipe, own)
    known = {flag.name: flag for flag in train_flags({key: type(method) for key, method in every.items()})}
    arguments = without_aliases(arguments, known)
    check_names(arguments, known, f"train {recipe.recipe} --help-all")
    # A parser of all flags takes a second to build: those of methods that nobody names are left out.
    named = " ".join(arguments)
    available = {k: m for k, m in every.items() if k in chosen or k in named or type(m) in own.values()}
    flags = parsed(flags_of(recipe, available), f"train {recipe.recipe}", arguments)
    common: Common = flags.common
    common = replace(common, methods=tuple(own[name].key if name in own else name for name in common.methods))
    unknown = [key for key in common.methods if key not in every]
    if unknown:
        raise InputError(f"there is no method {', '.join(unknown)}; there are {', '.join(METHODS)}")
    if len(set(common.methods)) != len(common.methods):
        raise InputError(f"each method can be named once, not {' '.join(common.methods)}")
    for key, default in available.items():
        if key not in common.methods and getattr(flags, _column(key)) != default:
            raise InputError(f"flags of {key} are given, but it is not among --methods {' '.join(common.methods)}")
    said = any(argument.replace("_", "-").startswith("--task-weight") for argument in arguments)
    if set(common.methods) != set(chosen) and recipe.task_weight != 1 and not said:
        raise InputError(
            f"the recipe's task_weight of {recipe.task_weight} goes with its methods ({' '.join(chosen)}): give "
            "--task-weight for yours (1 for the student alone or with attention transfer, 0.1 with kd)"
        )
    methods = tuple(cast(Method, getattr(flags, _column(key))) for key in common.methods)
    data: Data = flags.data
    if data.decoding == recipe.data.decoding and not data.name.startswith("folder:"):
        # A recipe's own files are decoded as its paper's loader does it; of another data set its owners say how.
        data = replace(data, decoding=None)
    experiment = replace(
        recipe,
        student=common.student,
        teacher=common.teacher if methods else None,
        methods=methods,
        task_weight=common.task_weight,
        untrained_teacher=common.untrained_teacher,
        teacher_mean=common.teacher_mean,
        teacher_std=common.teacher_std,
        match_classes=common.match_classes,
        seed=common.seed,
        data=data,
        optimisation=flags.optimisation,
        training=flags.training,
    )
    named = names_data(arguments, data)
    if common.tiny:
        _say_what_tiny_leaves_out(recipe, experiment)
        experiment = experiment.tiny(own_data=named)
    return experiment, common


def _say_what_tiny_leaves_out(recipe: Experiment, asked: Experiment) -> None:
    """Name the weights that were asked for and are not read."""
    for role, usual, spec in (("student", recipe.student, asked.student), ("teacher", recipe.teacher, asked.teacher)):
        if spec and spec != usual and split_weights(spec)[1]:
            print(printable(f"note: --tiny tries the {role} out with random weights: those of {spec} are not read"))


def names_data(arguments: Sequence[str], data: Data) -> bool:
    """Whether the user says which data to take, or where those of the recipe lie.

    Args:
        arguments: flags as typed.
        data: that they and the recipe make.

    Raises:
        ValueError: for a root of data that have none.
    """
    given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    if "--data" in given or "--data-root" not in given:
        return "--data" in given
    kind, colon, _ = data.name.partition(":")
    if colon:
        raise InputError(
            f"--data-root holds data sets that have a name of their own, and {data.name!r} names its own path: give "
            f"--data {kind}:PATH"
        )
    return data.name != Data().name  # those are made, and lie nowhere


def with_own_methods(recipe: Experiment, own: Mapping[str, type[Method]]) -> dict[str, Method]:
    """Every method by its key, as the recipe has it or with its defaults.

    Args:
        recipe: chooses some.
        own: the user's own, by their import paths.
    """
    return {**_available(recipe), **{method.key: method() for method in own.values()}}


def flags_of(recipe: Experiment, methods: Mapping[str, Method] | None = None) -> type[Any]:
    """A dataclass of flags, with the recipe's values: the experiment's without a prefix, each method's behind its key.

    Args:
        recipe: gives the values.
        methods: those that have flags, by their keys; all if not given.
    """
    shared = {
        f.name: getattr(recipe, f.name)
        for f in fields(Common)
        if f.name in {field.name for field in fields(recipe)} - {"methods"}
    }
    common = Common(**shared, methods=tuple(method.key for method in recipe.methods))
    groups: list[tuple[str, Any, Any]] = [
        ("common", Common, common),
        ("data", Data, recipe.data),
        ("optimisation", Optimisation, recipe.optimisation),
        ("training", Training, recipe.training),
    ]
    # An empty name leaves the prefix away.
    columns = [(name, Annotated[kind, tyro.conf.arg(name="")], field(default=value)) for name, kind, value in groups]
    for key, method in (_available(recipe) if methods is None else methods).items():
        columns.append((_column(key), Annotated[type(method), tyro.conf.arg(name=key)], field(default=method)))
    made = make_dataclass("Flags", columns, frozen=True)
    made.__doc__ = f"Recipe {recipe.recipe}."
    return made


def own_methods(words: Sequence[str]) -> dict[str, type[Method]]:
    """Methods that words name by their import paths, each now known by it.

    Raises:
        InputError: as `own_method` says.
    """
    named = (value for name, values in split(words)[1] if name in ("methods", "method") for value in values)
    return {path: own_method(path) for path in named if ":" in path}


def train_flags(methods: Mapping[str, type[Method]] = METHODS) -> list[Flag]:
    """Every flag of `train`, with the defaults of its record.

    Args:
        methods: whose settings are flags, by their keys.
    """
    found = [*flags_of_fields(Common), *flags_of_fields(Data, path="data.")]
    found += flags_of_fields(Optimisation, path="optimisation.")
    found += flags_of_fields(Training, path="training.")
    for key, method in methods.items():
        found += flags_of_fields(method, f"{key}.", f"methods.{key}.")
    return found


def _column(method: str) -> str:
    """The field of the flags that holds a method; keys may have hyphens, which fields cannot."""
    return f"method_{method.replace('-', '_')}"


def _available(recipe: Experiment) -> dict[str, Method]:
    """Every method by its key: as the recipe has it, or with its defaults."""
    chosen = {method.key: method for method in recipe.methods}
    return {key: chosen.get(key) or method() for key, method in METHODS.items()}


def _folder(experiment: Experiment, common: Common) -> Path:
    if common.run_folder is not None:
        return common.run_folder
    label = "+".join(method.key for method in experiment.methods) or "alone"
    return Path("runs", experiment.recipe, f"{'tiny-' if common.tiny else ''}{label}-seed{experiment.seed}")
