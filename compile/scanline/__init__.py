"""A quantised network becomes programs for the machine and a module that calls them."""
