"""Questions about many frames: an hour of film, INT8 against FP16, flicker, jitter."""
