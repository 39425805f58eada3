"""What jobs with a causal language model share: strict loading, the loss, ZeRO-3 from the first byte on."""
