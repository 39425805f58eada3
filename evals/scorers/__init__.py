"""How well a picture shows its prompt, in [0, 1]: by rules, CLIP, a model's answers, or reading."""
