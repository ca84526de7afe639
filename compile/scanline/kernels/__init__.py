"""The kinds of layers: one file a kind, which answers whatever planner, rewriting and emission ask of it."""
