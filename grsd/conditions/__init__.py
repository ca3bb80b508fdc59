"""The four conditions made measurable: each module has ``measure`` for one network and ``judge`` over seeds."""
