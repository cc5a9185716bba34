"""What the command answers before torch is loaded: help, names that do not exist and finished runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from attention_transfer.cli import main
from attention_transfer.commands.early import answered
from attention_transfer.commands.finished import is_finished
from attention_transfer.commands.flags.words import ALIASES
from attention_transfer.commands.index.making import made
from attention_transfer.commands.index.reading import FAMILIES, FILE, family, index, methods_in_source
from attention_transfer.commands.train import parse, train_flags
from attention_transfer.experiment import to_json
from attention_transfer.methods import METHODS
from attention_transfer.recipes import RECIPES
from attention_transfer.runs import RunFolder

# Recipes of every kind, and how many flags their help shows.
SHOWN = {
    "digits": 45,
    "photographs": 45,
    "cifar100-resnet56-resnet20": 51,
    "cifar100-wrn_40_2-wrn_40_1-crd": 45,
    "cat-table8-resnet50-mobilenetv1": 50,
    "imagenet-resnet18": 35,
    "deit-tiny-hard": 49,
    "links-decay-fixed": 60,
    "mhgd-digits-random": 55,
    "vit-mae-large-fine-tune": 44,
}


def finish(folder: Path, words: list[str], recipe: str = "digits") -> list[str]:
    """A run folder that looks finished, and the words that mean it."""
    experiment, _ = parse(RECIPES[recipe](), words)
    run = RunFolder.create_or_resume(folder, to_json(experiment))
    run.write_summary({"epochs": 1})
    run.close()
    return [*words, "--run-folder", str(folder)]


def test_the_index_is_that_of_the_code():
    assert FILE.read_text(encoding="utf-8") == made(), "run python -m attention_transfer.commands.index"


def test_the_index_holds_every_recipe_and_its_tiny_form():
    for name in SHOWN:
        assert index().experiment(name) == to_json(RECIPES[name]())
        assert index().experiment(name, tiny=True) == to_json(RECIPES[name]().tiny())


def test_methods_are_found_in_their_source():
    texts = {key: (method.__doc__ or "").partition("\n")[0] for key, method in METHODS.items()}
    assert methods_in_source() == texts


def test_every_family_has_recipes_and_every_recipe_a_family():
    assert {family(name) for name in RECIPES} == set(FAMILIES)


def test_quick_answers_load_nothing_heavy(tmp_path: Path):
    words = finish(tmp_path / "run", ["--lr", "0.1", "--seed", "3"])
    tiny = finish(tmp_path / "tiny", ["--tiny"])
    lines = [["list"], ["list", "attention", "maps"], ["train", "--help"], ["train", "digits", "--help"]]
    lines += [["train", "digitz"], ["train", "digits", "--learnig-rate", "1"], ["train", "digits", "--methods", "att"]]
    lines += [["train", "digits", "--data", "cifr"], ["train", "digits", "--teacher", "resnet57"]]
    lines += [["sweep", "digits", "--help"], ["reproduce", "digitz"], ["evaluate", "x", "--dta", "y"]]
    lines += [["train", "digits", *words], ["train", "digits", *tiny], ["pretrain", "--help"]]
    code = (
        "import sys; from attention_transfer.cli import main\n"
        f"codes = [main(words) for words in {lines!r}]\n"
        "heavy = {'torch', 'timm', 'torchvision', 'sklearn', 'numpy', 'tyro', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\nassert codes == [0, 0, 0, 0, 2, 2, 2, 2, 2, 0, 2, 2, 0, 0, 0], codes"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("is finished already: nothing to do") == 2


def test_another_experiment_is_never_taken_for_the_finished_one(tmp_path: Path):
    words = finish(tmp_path / "run", ["--epochs", "2"])
    assert is_finished(index(), "digits", words) == tmp_path / "run"
    for other in (["--epochs", "3"], ["--seed", "1"], ["--tiny"], ["--teacher", "resnet8"], ["--at.power", "3"]):
        assert is_finished(index(), "digits", [*words, *other]) is None
    assert main(["train", "digits", *words, "--seed", "1"]) == 2
    assert is_finished(index(), "digits-alone", words) is None


@pytest.mark.parametrize("recipe", SHOWN)
def test_help_of_a_recipe_shows_what_it_uses(recipe: str, capsys: pytest.CaptureFixture[str]):
    assert answered("train", [recipe, "--help"]) is None
    lines = capsys.readouterr().out.splitlines()
    flags = [line.split()[0] for line in lines if line.startswith("  --")]
    assert len(flags) == SHOWN[recipe]
    assert len(flags) <= 70
    assert max(map(len, lines)) <= 120
    keys = {method.key for method in RECIPES[recipe]().methods}
    assert {flag[2:].partition(".")[0] for flag in flags if "." in flag} == keys


def test_help_all_shows_every_flag(capsys: pytest.CaptureFixture[str]):
    assert answered("train", ["digits", "--help-all"]) is None
    shown = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  --")}
    used = {flag.name for flag in index().train.values()}
    assert shown == {f"--{name}" for name in used}
    assert used <= {flag.name for flag in train_flags()}


def test_usual_names_mean_the_flags_own():
    words = ["--lr", "0.3", "--wd=0.01", "--bs", "16", "--workers", "2", "--epoch", "5", "--opt", "adamw"]
    experiment, _ = parse(RECIPES["digits"](), words)
    assert (experiment.optimisation.learning_rate, experiment.optimisation.weight_decay) == (0.3, 0.01)
    assert (experiment.training.batch_size, experiment.data.num_workers, experiment.training.epochs) == (16, 2, 5)
    assert experiment.optimisation.optimizer == "adamw"
    assert set(ALIASES.values()) <= set(index().train)
    assert not set(ALIASES) & set(index().train)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train digits --learnig-rate 1", "no flag --learnig-rate; did you mean --learning-rate?"),
        ("train digits --learning_rat=1", "did you mean --learning-rate?"),
        ("train digits --at.wieght 1", "did you mean --at.weight?"),
        ("train digits --batch-sise 3", "did you mean --batch-size?"),
        ("train digits --lr", "--learning-rate needs a value, and nothing follows it"),
        ("train digits --data --tiny", "--data needs a value, and nothing follows it"),
        ("train digits --magic.weight 1", "there is no method magic"),
        ("train digits --methods kd att", "there is no method att; did you mean at?"),
        ("train digits --data cifar1000", "no data set 'cifar1000': did you mean cifar100?"),
        ("train digits --student resnet57", "no model 'resnet57'"),
        ("train digits --schedule cosin", "did you mean cosine?"),
        ("train digits --epochs ten", "--epochs must be a whole number, not 'ten'"),
        ("train digits 5", "'5' is no flag of train"),
        ("train digitz", "there is no recipe 'digitz'; did you mean digits"),
        ("sweep digits --over seed=0 --proceses 2", "did you mean --processes?"),
        ("suggest-weight digits --bathces 2", "did you mean --batches?"),
        ("pretrain timm:vit --lerning-rate 2", "did you mean --learning-rate?"),
        ("evaluate x --date y", "did you mean --data?"),
        ("reproduce digits --colums x", "did you mean --columns?"),
        ("trian digits", "did you mean train?"),
        ("list --what", "list has no flag --what"),
        ("list nothing-is-called-so", "nothing is called 'nothing-is-called-so'"),
    ],
)
def test_a_slip_is_met_with_the_likely_name(words: str, said: str, capsys: pytest.CaptureFixture[str]):
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
