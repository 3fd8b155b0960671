"""The questions: ``peers``, ``limits``, ``scaling``, ``solvers``."""
