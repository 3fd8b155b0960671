"""Benchmarks of skillaxes: never shipped, run from the root of a checkout with ``python -m bench``.

``synthetic`` makes the stores, ``reference`` the exact answers. ``launch`` runs one process and measures it, ``judge``
holds an answer against the exact one, ``machine`` measures the machine and computes floors, ``results`` keeps the
figures. ``suites`` are the measurements, ``peers`` the programs that a user would pick instead.
"""
