"""The clocks of the cycle model: the sequencer, and the load, convolution and store engines."""
