"""Agents that other programs published, read without running anything in their files.

`torch_file` reads the file, `pickle_machine` the pickle in it, `layout` knows how
TD-MPC2's tensors are named and laid out, `published` makes an agent of them.
"""
