"""Models written with arguments, and files with more than one network's weights."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attention_transfer.models import WeightsError, build, load_weights, open_model, read_weights, save_model
from attention_transfer.models.naming import Name, parse_name, split_weights, written

Weights = dict[str, Tensor]


def weights(seed: int, name: str = "resnet8", classes: int = 3) -> Weights:
    torch.manual_seed(seed)
    return dict(build(name, classes).state_dict())


def under(prefix: str, state: Mapping[str, Tensor]) -> Weights:
    return {prefix + name: value for name, value in state.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.pt"


def opened(content: Any, file: Path, key: str = "") -> tuple[Weights, str]:
    """The weights that are taken, and what is said about them."""
    torch.save(content, file)
    found = open_model(f"resnet8@{file}{key}")
    return dict(found.module.state_dict()), " | ".join(found.notes)


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


RAW, AVERAGED = weights(1), weights(2)
SWA = torch.optim.swa_utils.AveragedModel(nn.Sequential(build("resnet8", 3)))


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("model", "ema"),
        ("model_state_dict", "ema_state_dict"),
        ("net", "averaged_model"),
        ("model", "swa_model"),
        ("params", "params_ema"),
        ("model", "ema_0.999"),
    ],
)
def test_averaged_weights_are_taken_before_raw_ones_and_said(raw: str, averaged: str, file: Path) -> None:
    found, said = opened({"epoch": 3, raw: RAW, averaged: under("module.", AVERAGED), "args": Namespace(lr=0.1)}, file)
    assert same(found, AVERAGED)
    assert averaged in said
    assert f"{file}#{raw}" in said
    assert same(opened({raw: RAW, averaged: AVERAGED}, file, f"#{raw}")[0], RAW)


def test_averaged_weights_may_lie_beside_raw_ones_under_another_prefix(file: Path) -> None:
    content = {"state_dict": under("model.", RAW) | under("ema_model.module.", AVERAGED)}
    found, said = opened(content, file)
    assert same(found, AVERAGED)
    assert f"{file}#state_dict.model" in said
    assert same(opened(content, file, "#state_dict.model")[0], RAW)
    assert same(opened(content, file, "#model")[0], RAW)


def test_averages_that_lack_running_statistics_are_refused_with_the_way_to_the_raw_ones(file: Path) -> None:
    parameters = {name: value for name, value in AVERAGED.items() if "running" not in name}
    with pytest.raises(WeightsError, match=r"'ema'.*without bn1\.running_mean.*#model to take the latter"):
        opened({"model": RAW, "ema": parameters}, file)
    assert same(opened({"model": RAW, "ema": parameters}, file, "#model")[0], RAW)


def test_averages_without_names_are_not_passed_over_in_silence(file: Path) -> None:
    found, said = opened({"model": RAW, "ema": {"decay": 0.9, "shadow_params": list(AVERAGED.values())}}, file)
    assert same(found, RAW)
    assert "'ema', but not by name" in said


@pytest.mark.parametrize(
    ("content", "choices"),
    [
        ({"student": RAW, "teacher": AVERAGED}, ("#student", "#teacher")),
        ({"model": RAW, "best": AVERAGED}, ("#model", "#best")),
        ({"state_dict": under("module.encoder_q.", RAW) | under("module.encoder_k.", AVERAGED)}, ("encoder_q",)),
        (under("student.", RAW) | under("teacher.", AVERAGED), ("#student", "#teacher")),
        ({"ema_0.9": RAW, "ema_0.99": AVERAGED}, ("#ema_0.9", "#ema_0.99")),
        (RAW | under("teacher.", AVERAGED), ("#teacher", "# or")),
    ],
)
def test_every_other_ambiguity_is_refused_with_the_choices(content: Any, choices: tuple[str, ...], file: Path) -> None:
    with pytest.raises(WeightsError, match="2 sets of weights") as caught:
        opened(content, file)
    assert all(choice in str(caught.value) for choice in choices)


@pytest.mark.parametrize(
    ("content", "key", "wanted"),
    [
        ({"student": RAW, "teacher": AVERAGED}, "#teacher", AVERAGED),
        ({"a": {"b": RAW, "c": AVERAGED}}, "#a.c", AVERAGED),
        ({"a": {"b": RAW, "c": AVERAGED}}, "#b", RAW),
        (
            {"q": under("module.encoder_q.", RAW) | under("module.encoder_k.", AVERAGED)},
            "#q.module.encoder_k",
            AVERAGED,
        ),
        (RAW | under("teacher.", AVERAGED), "#", RAW),
        ({"one": RAW}, "#one", RAW),
    ],
)
def test_a_key_chooses(content: Any, key: str, wanted: Weights, file: Path) -> None:
    assert same(opened(content, file, key)[0], wanted)


def test_a_key_chooses_in_a_file_without_a_name_too(file: Path) -> None:
    torch.save({"model": RAW, "best": AVERAGED}, file)
    found = open_model(f"{file}#best")
    assert found.name == "resnet8"
    assert same(found.module.state_dict(), AVERAGED)
    assert same(read_weights(file, "best"), AVERAGED)
    with pytest.raises(WeightsError, match=r"2 state dicts of the same names.*#model or #best"):
        read_weights(file)


def test_a_key_that_leads_nowhere_is_answered_with_those_that_do(file: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights under 'emma'.*file\.pt#model, .*file\.pt#ema"):
        opened({"model": RAW, "ema": AVERAGED}, file, "#emma")


def test_the_same_weights_twice_are_no_ambiguity(file: Path) -> None:
    assert same(opened(under("net.", RAW) | under("criterion.net.", RAW), file)[0], RAW)


@pytest.mark.parametrize("name", ["a#b.pt", "#.pt", "a#model"])
def test_a_file_may_have_the_sign_in_its_own_name(name: str, tmp_path: Path) -> None:
    torch.save({"model": RAW, "best": AVERAGED}, tmp_path / name)
    assert same(open_model(f"resnet8@{tmp_path / name}#best").module.state_dict(), AVERAGED)
    torch.save(RAW, tmp_path / name)
    assert same(open_model(f"resnet8@{tmp_path / name}").module.state_dict(), RAW)
    assert open_model(str(tmp_path / name)).name == "resnet8"


@pytest.mark.parametrize(
    "prefix", ["model.", "student.", "net.backbone.", "module._orig_mod.", "0.", "_fsdp_wrapped_module.", "whatever."]
)
def test_one_common_prefix_is_taken_off_whatever_it_is_called(prefix: str, file: Path) -> None:
    found, said = opened({"state_dict": under(prefix, RAW)}, file)
    assert same(found, RAW)
    assert said == ""


def test_an_averaged_model_of_torch_is_opened(file: Path) -> None:
    found, said = opened(SWA.state_dict(), file)
    assert torch.equal(found["fc.weight"], SWA.state_dict()["module.0.fc.weight"])
    assert "n_averaged" in said


@pytest.mark.parametrize(
    "foreign",
    [
        {"criterion.centre": torch.zeros(2)},
        {"teacher.conv1.weight": torch.zeros(2), "teacher.fc.weight": torch.zeros(3)},
        {"projector.0.weight": torch.zeros(2)},
        {"n_averaged": torch.zeros(1), "queue": torch.zeros(3)},
        under("teacher.", weights(3, "resnet14")),
    ],
)
@pytest.mark.parametrize("prefix", ["", "student."])
def test_what_lies_beside_the_network_is_left_out_and_said(foreign: Weights, prefix: str, file: Path) -> None:
    found, said = opened(under(prefix, RAW) | foreign, file)
    assert same(found, RAW)
    assert next(iter(foreign)).partition(".")[0] in said


def test_an_optimiser_is_not_worth_a_word(file: Path) -> None:
    module = build("resnet8", 3)
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    sum(parameter.sum() for parameter in module.parameters()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.step()
    found, said = opened({"state_dict": RAW, "optimizer": optimizer.state_dict()}, file)
    assert same(found, RAW)
    assert said == ""


def test_a_deeper_network_of_the_same_names_is_not_cut_down(file: Path) -> None:
    with pytest.raises(WeightsError, match=r"unexpected: layer1\.1"):
        opened(under("model.", weights(3, "resnet14")), file)


def test_the_network_that_fits_is_taken_beside_a_larger_one(file: Path) -> None:
    found, said = opened({"teacher": weights(3, "resnet14"), "student": RAW}, file)
    assert same(found, RAW)
    assert "'teacher'" in said


def test_a_projection_in_place_of_the_last_layer_is_left_out_of_a_network_of_timm(file: Path) -> None:
    torch.manual_seed(0)
    state = build("timm:resnet10t", 3).state_dict()
    body = {name: value for name, value in state.items() if not name.startswith("fc.")}
    torch.save(under("module.encoder_q.", body | {"fc.0.weight": torch.zeros(4, 4), "fc.2.bias": torch.zeros(4)}), file)
    found = open_model(f"timm:resnet10t@{file}")
    assert found.num_classes == 0
    assert any("module.encoder_q.fc.* (2)" in note for note in found.notes), found.notes
    assert same(body, found.module.state_dict())


def test_loading_says_what_was_taken(file: Path) -> None:
    module = build("resnet8", 3)
    torch.save({"model": RAW, "ema": AVERAGED}, file)
    assert "'ema'" in load_weights(module, file)[0]
    assert same(module.state_dict(), AVERAGED)
    assert load_weights(module, file, "model") == ()
    assert same(module.state_dict(), RAW)


@pytest.mark.parametrize("part", ["", "/student.safetensors"])
def test_a_run_has_one_student_and_takes_no_key(part: str, tmp_path: Path) -> None:
    save_model(build("resnet8", 3), tmp_path, "resnet8", 3)
    with pytest.raises(ValueError, match="the weights of one student: leave out #ema"):
        open_model(f"{tmp_path}{part}#ema")


def test_averages_that_a_callback_keeps_deep_in_a_checkpoint_are_found(file: Path) -> None:
    content = {
        "state_dict": under("model.", RAW) | {"loss_fn.weight": torch.ones(3)},
        "callbacks": {"EMA": {"ema_weights": AVERAGED, "step": 3}},
        "hyper_parameters": {"lr": 0.1},
    }
    found, said = opened(content, file)
    assert same(found, AVERAGED)
    assert "callbacks.EMA.ema_weights" in said


def test_a_list_of_state_dicts_is_refused(file: Path) -> None:
    with pytest.raises(WeightsError, match="holds a list, not a state dict"):
        opened([RAW, AVERAGED], file)


def test_the_first_of_equal_networks_is_taken_beside_a_third(file: Path) -> None:
    with pytest.raises(WeightsError, match="2 sets of weights"):
        opened({"a": RAW, "b": RAW, "c": AVERAGED}, file)


# ---------------------------------------------------------------- models written with arguments


@pytest.mark.parametrize(
    ("spec", "name", "weights"),
    [
        ("resnet8", "resnet8", None),
        ("timm:a.b@pretrained", "timm:a.b", "pretrained"),
        ("timm:a(x=1, y=(2, 3))", "timm:a(x=1, y=(2, 3))", None),
        ("timm:a(x=1)@w(1)@2.pt", "timm:a(x=1)", "w(1)@2.pt"),
        ('timm:a(x="p@q)@r", y=f"")@w', 'timm:a(x="p@q)@r", y=f"")', "w"),
        ("timm:a@folder(2)/w.pt", "timm:a", "folder(2)/w.pt"),
        ("timm:a(x=1@w", "timm:a(x=1", "w"),
        ("runs/a(1)/b", "runs/a(1)/b", None),
    ],
)
def test_weights_begin_at_the_first_at_sign_outside_the_arguments(spec: str, name: str, weights: str | None) -> None:
    assert split_weights(spec) == (name, weights)


def test_arguments_are_plain_values_in_their_order() -> None:
    parsed = parse_name('timm:vit(img_size=32, global_pool="avg", scale=-0.5, widths=(1, [2, None]), v2=True)')
    values = {"img_size": 32, "global_pool": "avg", "scale": -0.5, "widths": (1, [2, None]), "v2": True}
    assert parsed == Name("timm", "vit", values)
    assert list(parsed.arguments) == list(values)
    assert written({"a": "x", "b": (1, 2)}) == ", a='x', b=(1, 2)"
    assert parse_name("resnet8") == Name("", "resnet8")
    assert parse_name("timm:vit()") == Name("timm", "vit")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:vit(32)", "must all be written key=value"),
        ("timm:vit(**{'a': 1})", "must all be written key=value"),
        ("timm:vit(a=b)", r"a=b of .* is no plain value: give a number, a string in quotes"),
        ("timm:vit(a=__import__('os').getcwd())", "is no plain value"),
        ("timm:vit(a={[1]: 2})", "is no plain value"),
        ("timm:vit(a={[]})", "is no plain value"),
        ("timm:vit(a=1, a=2)", "a is given twice"),
        ("timm:vit(num_classes=3)", "num_classes cannot be an argument"),
        ("timm:vit(pretrained=True)", "pretrained cannot be an argument"),
        ("timm:vit(a=1", "cannot be read: write NAME"),
        ("timm:vit(a=1)b", "cannot be read: write NAME"),
    ],
)
def test_what_is_no_plain_argument_is_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_name(name)


def test_a_local_folder_of_transformers_may_have_parentheses(tmp_path: Path) -> None:
    folder = tmp_path / "vit (2)"
    folder.mkdir()
    assert parse_name(f"hf:{folder}") == Name("hf", str(folder))
    assert parse_name(f"hf:{folder}(image_size=16)") == Name("hf", str(folder), {"image_size": 16})
