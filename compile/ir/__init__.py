"""A network as a value: named operators in order, evaluated in float, and its spelling in Relax."""
