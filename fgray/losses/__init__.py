"""Losses of contrastive training, one file per paper, and the gathering of features across ranks."""
