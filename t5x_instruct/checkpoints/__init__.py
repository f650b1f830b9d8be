"""Checkpoints: saved, verified and restored by one module around Orbax; other formats are converted at the door."""
