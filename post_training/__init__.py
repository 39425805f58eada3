"""A trained generator learns from what its own pictures are worth."""
