"""The implementations of the arithmetic, one file each."""
