"""What a run tells people: progress, the metrics log, tables, curves and the report page."""
