"""Images in a reproducible order.

`images` decodes, `sources` says where from, `order` and `mixture` who comes when; `stream` joins them to train, and
`evaluation` to look at each image once.
"""
