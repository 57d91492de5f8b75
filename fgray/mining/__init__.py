"""Hard-negative mining: exact top-k over embedded pairs, filters against false negatives, and an audit of those filters."""
