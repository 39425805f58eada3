"""Images in a reproducible order.

`images` decodes, `sources` says where from, `order` who comes when; `stream` joins them.
"""
