"""A network for code that nobody trusts: out to the internet, and to nothing that is ours.

Each sandbox has a network namespace with one wire to the machine (a veth pair) and an address of
its own. The machine routes between the wires and its uplink; there is no bridge, so what leaves one
wire meets the rules before it can meet another. What may pass is decided by one nftables table.
"""
