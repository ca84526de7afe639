"""The commands of ``python -m codesign``: options in, a table or JSON out; what they do is done elsewhere."""
