"""What happens after the embedding: trials, scores, normalisation, metrics."""
