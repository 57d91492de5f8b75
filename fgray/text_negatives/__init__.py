"""Negatives made of words: captions edited so that they no longer fit their image."""
