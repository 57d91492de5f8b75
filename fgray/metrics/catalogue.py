"""What the last part of a metric's name means."""

METRICS = {
    "accuracy": "share of cases whose right candidate scores highest; in SPEC the mean of its two directions",
    "i2t_accuracy": "SPEC: an image query, its captions as candidates",
    "t2i_accuracy": "SPEC: a caption as the query, its images as candidates",
    "text_retrieval_recall@k": "share of images with one of their own captions among the k best of all captions",
    "image_retrieval_recall@k": "share of captions with their own image among the k best of all images",
    "acc1": "zero-shot classification: share of images whose class scores highest",
    "acc5": "zero-shot classification: share of images whose class is among the five best",
    "class_mean_accuracy@k": "box classification: share of boxes whose class is among the k best, of each class, averaged over the classes",
    "box_accuracy@1": "box classification: share of all boxes whose class scores highest",
    "mean_per_class_recall": "acc1 of each class, averaged over the classes",
}
"""Last part of the name -> its meaning. ``macro`` before it averages subsets; every value comes with count, chance and interval."""
