"""How good captions are: the COCO metrics and the baseline that looks at no image."""
