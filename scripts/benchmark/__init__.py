"""The benchmark: what a relayed delta costs, and how late it comes.

    load -> front-end -> sshd -> runner -> simulator        every arrow is loopback
    load -> ssh -L ----> sshd -----------> simulator        the peers, in the same run
    load -> nginx or LiteLLM -> ssh -L -> sshd -> simulator
    load --------------------------------> simulator

The simulator stamps each delta with a number and the time; the load generator checks the first and
subtracts the second. Both are processes of their own that parse nothing while the clock runs.
CPU time and memory come from the kernel, per process. Peers take turns within every round, so that
whatever else the machine does hits them alike; medians and ranges over rounds are printed.
"""
