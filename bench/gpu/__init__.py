"""``python -m bench.gpu``: all measurements on a card, in one run under ten minutes.

The kernels (:mod:`bench.kernels.gpu`), a read of a store from three places (:mod:`bench.gpu.reads`), and the whole job
beside its peers (:mod:`bench.gpu.jobs`). Each begins with a check of the results.
"""
