"""The peers: programs that a user would pick instead, each from files to the top-k rows of both sides.

A peer is run as ``python -m bench.peers.NAME SOURCE OUT --components K --top T``. It writes an answer
(:class:`bench.judge.Answer`) and the times at which its imports and its stages were done. A peer whose library is
missing ends with exit code 77.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A peer and its program.

    Attributes
    ----------
    name : module in this folder
    source : the file it starts from: ``store``, ``npy`` or ``pickle``
    what : one line for the table
    repeats : number of measurements unless the options say otherwise; 1 for slow peers
    needs : module that has to be installed
    """

    name: str
    source: str
    what: str
    repeats: int
    needs: str = "torch"


PEERS = (
    Peer("notebook", "pickle", "the notebook: pickle, scikit-learn PCA, cosine_similarity, argsort", 1, "sklearn"),
    Peer("torch_expert", "npy", "torch in memory: pca_lowrank, one matmul, topk", 3),
    Peer("sklearn_incremental", "store", "scikit-learn IncrementalPCA, batches of 1,024", 1, "sklearn"),
    Peer("dask_compressed", "store", "dask svd_compressed, 4 QR power iterations", 1, "dask"),
    Peer("faiss_matrix", "npy", "faiss PCAMatrix, then inner product search", 1, "faiss"),
    Peer("skillaxes_python", "store", "skillaxes.discover, from Python", 5, "skillaxes"),
    Peer("skillaxes_command", "store", "skillaxes discover, the command", 5, "skillaxes"),
)
