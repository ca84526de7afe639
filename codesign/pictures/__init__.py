"""Images and optical flow, read, written and resampled."""
