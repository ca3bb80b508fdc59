"""The commands of ``grsd``, one a file: its ``HELP``, ``add`` for its arguments, ``run`` for its work and exit code."""
