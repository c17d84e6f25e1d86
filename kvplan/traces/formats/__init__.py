"""One trace format a file: ``sniff`` and ``read``."""
