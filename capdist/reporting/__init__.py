"""What a run tells people: progress, the journal, tables, curves and the report page."""
