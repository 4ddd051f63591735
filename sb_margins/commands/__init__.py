"""One file per verb of ``sb-margins``: its settings, and ``main(argv)``."""
