"""Cloud TPU slices: asked for, started, watched, given back; all through the `gcloud` program, and without JAX."""
