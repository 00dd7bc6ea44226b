"""What a stage of training minimises: one file for each objective."""
