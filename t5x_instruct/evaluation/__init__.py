"""How well a model follows instructions: metrics, rank classification, reports."""
