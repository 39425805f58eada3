"""The files of a checkpoint: how they are written, listed, verified and read."""
