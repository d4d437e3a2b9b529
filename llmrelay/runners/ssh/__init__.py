"""From a host's address to a byte channel. The one package that imports asyncssh.

settings.py reads ssh_config as `ssh` does, login.py logs in and says what stands in the way, and
channel.py is one command's stdin, stdout and stderr. Every hop is an ordinary login, verified like
the last: which hosts are on the way is ../reach.py's and ../jump.py's to know. No frames and no
payload here.
"""
