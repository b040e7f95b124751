"""The verbs on the command line. `ckptsync --help` loads nothing but click; each verb loads what it needs when it runs."""
