"""Benchmarks of the kernels alone: compiled resources, a computed roofline, times.

python -m bench.kernels.resources    registers, spills, shared memory, tensor-core instructions; needs no GPU
python -m bench.kernels.roofline     bytes and operations of each stage over the rates of A100, H100, H200
python -m bench.kernels.cpu          correctness, then times, of the products for CPUs
python -m bench.kernels.gpu          correctness, then times, on a card; ``--tiny --device cpu`` runs anywhere
"""
