"""Image data: shards and their index, importers of upstream layouts, decoding, and the case set."""
