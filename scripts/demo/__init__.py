"""The miniature world of the demo, and what is measured in it; each module is started with `python -m`."""
