"""Talking to a trained model: one answer, many at once, and talks of several turns; from nothing but its folder."""
