"""What the three jobs share: configuration, models, data and training tools. Imports nothing else of ours."""
