"""``python -m bench.gpu``: everything there is to measure on a card, in one run under ten minutes.

The kernels (:mod:`bench.kernels.gpu`), a read of a store from three places (:mod:`bench.gpu.reads`), and the whole job
beside its peers (:mod:`bench.gpu.jobs`); correctness first in each.
"""
