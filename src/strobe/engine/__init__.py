"""Generation for many requests at once over one paged cache."""
