"""The output of a run: progress, the metrics log, tables, curves and the report."""
