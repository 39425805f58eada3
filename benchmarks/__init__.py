"""One script per measured claim; what they measured stands in RESULTS.md."""
