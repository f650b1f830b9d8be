"""Losses: pure functions that give a weighted sum and its weight, never a mean."""
