"""Services that show the numbers and captions of runs: one file for each."""
