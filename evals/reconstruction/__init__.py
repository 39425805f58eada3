"""Reconstruction by TiTok's rules."""
