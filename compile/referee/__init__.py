"""The quantised network in exact integers, sharing nothing with the lowering."""
