"""Models written with arguments: what is read from the text alone."""

from pathlib import Path

import pytest

from attention_transfer.models.naming import Name, parse_name, split_weights, written


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
