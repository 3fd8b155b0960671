"""The kernels alone: what the compiler makes of them, what paper predicts, what a card measures.

python -m bench.kernels.resources    registers, spills, shared memory, tensor-core instructions; needs no GPU
python -m bench.kernels.roofline     bytes and operations of each stage over the rates of A100, H100, H200
python -m bench.kernels.gpu          correctness, then times, on a card; ``--tiny --device cpu`` runs anywhere
"""
