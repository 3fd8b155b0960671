"""The suites: ``peers``, ``limits``, ``scaling``, ``solvers``; each has a ``run`` that appends lines to the results."""
