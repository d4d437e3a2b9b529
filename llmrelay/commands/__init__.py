"""The commands, a file each: its arguments, what it runs, and how that ends.

arguments.py makes arguments of Config's options; ../cli.py has the parser that all are under.
"""
