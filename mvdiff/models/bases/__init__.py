"""Families of frozen bases, one class each: the parts that the rest of mvdiff uses without knowing the family.

`base.Base` is the protocol. `opening` finds the family of a folder and loads it.
"""
