"""Evaluations by the rules of their authors; each has one shell command."""
