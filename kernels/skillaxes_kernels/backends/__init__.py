"""The backends, one file each; ``skillaxes_kernels.api`` holds the table of them."""
