"""Writes the index anew: `python -m attention_transfer.commands.index`, after names, flags or recipes have changed."""

from attention_transfer.commands.index.making import made
from attention_transfer.commands.index.reading import FILE

FILE.write_text(made(), encoding="utf-8", newline="\n")
