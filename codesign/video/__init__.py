"""Video in, video out: read, restore on a target of the user's choice, write, as a stream of bounded size."""
