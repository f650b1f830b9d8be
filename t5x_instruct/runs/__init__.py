"""Whole runs, one file each: the verbs as plain functions, which the command line binds with gin."""
