"""A service on loopback that is never what a client waits for: it drops what is uploaded and serves what it can send uncopied.

Two buckets: what is put into `bench` is dropped when it is large, and read back as the beginning of one blob, of which all
clients upload copies; what is put into `kept` is kept, for clients that write formats of their own. Small objects are always
kept, so that conditions, manifests and listings work. Signatures are not looked at.
"""
