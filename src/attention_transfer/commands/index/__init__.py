"""The index of names and flags, which is read without loading torch; `python -m attention_transfer.commands.index`."""
