"""VLMEvalKit with our models."""
