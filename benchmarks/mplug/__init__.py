"""Is our mPLUG modelscope's? Both on the same random weights."""
