"""Text without models: templates, option lists and chat formats."""
