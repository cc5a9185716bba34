"""What the installed versions of other libraries have."""

import pytest
import timm


def skip_where_unknown(name: str) -> None:
    """Skip a test of a network of timm that came after the oldest version that is supported."""
    if name.startswith("timm:") and not timm.is_model(name.removeprefix("timm:")):
        pytest.skip(f"this version of timm has no {name}")
