"""From registered tasks to batches: prepare renders and indexes once, the loader reads by index.

Only `seqio_vocabulary`, `tasks`, `preprocessors`, `sources` and `prepare` import seqio and TensorFlow;
everything that reads prepared data runs without them.
"""
