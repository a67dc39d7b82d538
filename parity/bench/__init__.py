"""`parity bench`: ours and theirs side by side in one run. Frameworks are loaded in the two worker processes only."""
