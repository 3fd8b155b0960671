"""Modules that tests of several rooms share; pytest's ``pythonpath`` makes them importable as ``support.matrices``."""
