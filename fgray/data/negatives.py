"""The negatives file: what mining and text generation write, and training reads."""

from __future__ import annotations

import pyarrow as pa

FORMAT = b"fgray.negatives/1"
FORMAT_KEY = b"fgray.format"  # in the schema's metadata; a file without it is foreign

NEGATIVE = pa.struct(
    [
        pa.field("ref", pa.string(), nullable=False),  # image key, or the text itself
        pa.field("score", pa.float64()),  # cosine to the anchor; null for generated texts
        pa.field("margin", pa.float64()),  # the positive's score minus this one; null without a positive's score
        pa.field("rank", pa.int32()),  # 1-based place among all candidates of the anchor, before filters; null for generated texts
        pa.field("type", pa.string(), nullable=False),  # mined | relation_swap | replace_noun | … : what kind of negative
        pa.field("start", pa.int32()),  # first character of the edit in `ref`; null where nothing was edited
        pa.field("end", pa.int32()),  # one past its last
        pa.field("original", pa.string()),  # what stood there in the anchor
        pa.field("plausibility", pa.float64()),  # log-likelihood per token of `ref` minus the anchor's, text only; null where not computed
        pa.field("valid", pa.bool_(), nullable=False),  # false: a placeholder that losses mask out (a caption without an adjective)
        pa.field("source", pa.string(), nullable=False),  # model fingerprint's first 12 digits, or the generator with its options
        pa.field("reason", pa.string(), nullable=False),  # why it was kept, in one clause
    ]
)

NEGATIVE_SCHEMA = pa.schema(
    [
        pa.field("direction", pa.string(), nullable=False),  # image_to_text | text_to_image | image_to_image | text_to_text | text_edit
        pa.field("anchor_kind", pa.string(), nullable=False),  # image | text
        pa.field("anchor", pa.string(), nullable=False),  # image key, or the text itself
        pa.field("positive_kind", pa.string()),  # image | text; null where the anchor has no positive of the other kind
        pa.field("positive", pa.string()),
        pa.field("positive_score", pa.float64()),
        pa.field("negative_kind", pa.string(), nullable=False),  # image | text
        pa.field("negatives", pa.list_(NEGATIVE), nullable=False),  # hardest first; generated ones in their generator's order
    ]
)
"""One row per (direction, anchor, positive), sorted by these; (anchor) alone where there is no positive."""
