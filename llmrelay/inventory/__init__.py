"""Which runners there are to be: an Ansible inventory, or --runner, into RunnerSpecs.

A file is read as `ansible-inventory` reads it: ini.py makes an Inventory (model.py) of Ansible's
INI format, ansible.py has Ansible's own command read what else there is, patterns.py is --limit.
specs.py makes RunnerSpecs of the hosts' variables (variables.py), and load.py puts it together. No
sockets, no event loop and nothing of what runners do here.
"""
