"""Model files and torch modules become one Relax function of static shape."""
