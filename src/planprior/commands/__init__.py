"""The commands, one file each: a class of options, and `run` to carry them out.

What is slow to import is imported inside `run`: `--help` is to be quick.
"""
