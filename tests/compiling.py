"""Tests that compile a distiller."""

import pytest

from attention_transfer.distiller.compiling import COMPILES_FROM, compiles

compiled_whole = pytest.mark.skipif(not compiles(), reason=f"torch compiles no distiller before {COMPILES_FROM}")
