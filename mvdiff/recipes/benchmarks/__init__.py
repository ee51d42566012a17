"""The paper's tables, made again: each table is data (`table1.py`, ...) that `runner.run_table` runs."""
