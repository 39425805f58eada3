"""What is learned from scored pictures: small siblings with one contract (`contract.py`)."""
