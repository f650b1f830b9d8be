"""Models: Flax Linen inside, pure functions over plain nested dictionaries outside (see `api`)."""
