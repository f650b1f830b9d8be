"""The train step, the optimizers and the loop around them."""
