"""Files behind URLs: asked for (`transport`), again (`retries`), kept (`cache`), read by offset (`ranges`)."""
