"""What every room leans on: errors, types, trees, files, hosts. Imports no JAX and no TensorFlow."""
