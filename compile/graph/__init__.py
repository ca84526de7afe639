"""A network as a value: nodes in order, passes over them, and the float meaning of plain operators."""
