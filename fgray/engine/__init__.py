"""Units of work through stages, committed whole to a content-addressed store. Knows nothing of images or scores."""
