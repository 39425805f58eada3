"""How well pictures are rebuilt, and how a codebook is used: read by training and evaluations alike."""
