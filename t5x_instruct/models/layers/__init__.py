"""Layers, each defined once; families of models differ by how they configure and compose them."""
