"""What a run would need on a TPU slice that is not there: memory, time and traffic of its compiled step."""
