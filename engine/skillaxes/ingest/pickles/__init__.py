"""Files of ``pickle.dump`` and ``torch.save``, read without importing or running anything that they name."""
