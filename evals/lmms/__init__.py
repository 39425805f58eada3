"""lmms-eval with our models, and with questions of one's own."""
