"""The notebook, literally: pickle, PCA by scikit-learn, one cosine similarity a direction, ``argsort``, both ends.

``F.cosine_similarity`` needs the matrix as a torch tensor, so scikit-learn gets a torch tensor too. It copies the
tensor to float64, and the directions are float64 from there on. That is part of the measured program.
"""

from __future__ import annotations

import argparse

from bench.peers.program import Clock, run


def _job(options: argparse.Namespace, clock: Clock):  # type: ignore[no-untyped-def]
    import pickle

    import numpy as np
    import torch
    import torch.nn.functional as F
    from sklearn.decomposition import PCA

    from bench.judge import Answer

    with open(options.source, "rb") as file:
        gradmat = torch.from_numpy(pickle.load(file))
    clock.mark("load")
    pca = PCA(n_components=options.components)
    pca.fit(gradmat)
    clock.mark("pca")
    positive, negative = [], []
    for component in pca.components_:
        similarity = F.cosine_similarity(torch.from_numpy(component).unsqueeze(0), gradmat)
        order = np.argsort(similarity.numpy())
        negative.append(order[: options.top])
        positive.append(order[::-1][: options.top])
    clock.mark("rank")
    return Answer(pca.components_, np.array(positive), np.array(negative))


if __name__ == "__main__":
    run(("pickle", "numpy", "torch", "torch.nn.functional", "sklearn.decomposition", "bench.judge"), _job)
