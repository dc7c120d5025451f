"""TFDS builders that need no TensorFlow, one folder each in TFDS's convention."""
