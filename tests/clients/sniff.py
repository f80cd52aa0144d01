"""Writes what crosses the network cards of this host into a file, until it is ended (root, Linux).

usage: sniff.py FILE       the file exists as soon as nothing is missed any more
"""

import socket
import sys

ALL_PROTOCOLS = 3

cards = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
cards.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 2**20)
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        packet, address = cards.recvfrom(2**18)
        # What stays on this host is not on the network.
        if address[0] != "lo":
            file.write(packet)
