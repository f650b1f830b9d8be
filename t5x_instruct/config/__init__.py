"""Gin at the edge: the table of names, the reading of gin files, and their validation in one pass.

`schema` says which names exist, `gin_files` reads files and command line into bindings with their
places, `validate.resolve` compares the two and reports every problem at once; what it returns
(`resolved`) builds the objects.
Components know nothing of it: they are dataclasses and functions with plain arguments.
"""
