"""Float networks become INT8 and INT16: observed, balanced, rounded, within an error budget."""
